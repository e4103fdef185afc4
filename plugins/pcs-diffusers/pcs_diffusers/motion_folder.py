"""A model folder of Stable Diffusion and of motion modules that came in a file.

It has the layout of `AnimateDiffPipeline` with Stable Diffusion's own UNet: this plugin and diffusers join the
two as they read it. Weights of the base are linked where the file system can, else copied.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import InputError, nearest
from pcs_diffusers.animatediff import AnimateDiffInParts
from pcs_diffusers.folders import find_folder, part_config, read_scheduler
from pcs_diffusers.recognise import MOTION
from pcs_diffusers.stable_diffusion import StableDiffusion
from pcs_diffusers.weight_files import weight_files

if TYPE_CHECKING:
    from torch import Tensor

BETAS = "linear"
"""The schedule of betas that motion modules were trained with: the authors' inference-v1.yaml, -v2 and -v3."""
SMALL = (".json", ".txt")
"""Ends of files that hold no weights."""
ROUNDED = 1e-2
"""How far positions in a file may be from the sines and cosines that they are: bfloat16 rounds by 0.004."""


def write_motion_folder(
    base: str | Path,
    out: str | Path,
    tensors: Mapping[str, Tensor],
    positions: Mapping[str, Tensor],
    *,
    settings: Mapping[str, Any],
    keys: Mapping[str, str],
    file: str,
) -> dict[str, Any]:
    """Write the folder ``out`` of Stable Diffusion in ``base`` (a folder or hub id) with motion modules.

    ``tensors`` and ``positions`` [1 t c] are called as in diffusers' ``MotionAdapter``, ``keys`` what the
    ``file`` calls them, ``settings`` the adapter's own. Returns the most ``frames`` of a clip, and ``notes``.

    Raises
    ------
    InputError
        ``base`` is no folder of Stable Diffusion 1.x, or the modules are not for it; names the key.
    """
    folder = base_folder(base)
    adapter = adapter_of(folder, tensors, positions, settings=settings, keys=keys, file=file)
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    index = {"_class_name": "AnimateDiffPipeline"}
    for part, kind in AnimateDiffInParts.layout.parts.items():
        library, _, name = kind.rpartition(".")
        index[part] = [library, name]  # type: ignore[assignment]
        if part != MOTION:
            take_part(folder / part, target / part, library)
    adapter.save_pretrained(target / MOTION)
    scheduler = read_scheduler(folder)
    before = scheduler.get("beta_schedule")
    index["scheduler"] = ["diffusers", scheduler.get("_class_name", "DDIMScheduler")]  # type: ignore[assignment]
    write_json(
        target / "scheduler" / "scheduler_config.json", {**scheduler, "beta_schedule": BETAS}
    )
    write_json(target / "model_index.json", index)
    notes = []
    if before != BETAS:
        notes.append(
            f"motion modules were trained with betas in equal steps: the scheduler says {BETAS!r} in place of "
            f"{before!r}"
        )
    return {"frames": settings["motion_max_seq_length"], "notes": notes}


def base_folder(base: str | Path) -> Path:
    """Return the folder of Stable Diffusion that ``base`` names.

    Raises
    ------
    InputError
        It is of another kind.
    """

    def knows(folder: Path) -> bool:
        return StableDiffusion.knows(folder) or AnimateDiffInParts.knows(folder)

    folder = find_folder(base, knows, StableDiffusion.layout.needed)
    if folder is None:
        raise InputError(
            "motion modules are put into a folder of Stable Diffusion 1.x in diffusers' layout, and "
            f"{str(base)!r} is none: give one with --backbone"
        )
    return folder


def adapter_of(
    folder: Path,
    tensors: Mapping[str, Tensor],
    positions: Mapping[str, Tensor],
    *,
    settings: Mapping[str, Any],
    keys: Mapping[str, str],
    file: str,
) -> Any:
    """Return diffusers' ``MotionAdapter`` of the tensors, for the UNet in ``folder``.

    Raises
    ------
    InputError
        A tensor is missing, surplus or of another shape, or positions are not the usual ones; names the key.
    """
    from diffusers import MotionAdapter
    from diffusers.models.embeddings import SinusoidalPositionalEmbedding

    unet = part_config(folder / "unet")
    check_blocks(unet, settings, file)
    with torch.device("meta"):
        adapter: Any = MotionAdapter(
            **settings, motion_norm_num_groups=unet.get("norm_num_groups", 32)
        )
    expected = adapter.state_dict()
    for name, tensor in tensors.items():
        if name not in expected:
            raise InputError(
                f"{file}: {keys[name]!r} is of no motion module of diffusers' {nearest(name, expected)}"
            )
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{file}: {keys[name]!r} is {tuple(tensor.shape)}, and these modules have "
                f"{tuple(expected[name].shape)} there"
            )
    for name, module in adapter.named_modules():
        if isinstance(getattr(module, "pos_embed", None), SinusoidalPositionalEmbedding):
            module.pos_embed = SinusoidalPositionalEmbedding(
                module.norm1.normalized_shape[0], settings["motion_max_seq_length"]
            )
            check_positions(f"{name}.", module.pos_embed.pe, positions, keys, file)
    missing = [n for n in expected if n not in tensors and not n.endswith("pos_embed.pe")]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{file} lacks {missing[0]!r} (in diffusers' names){more}: it is damaged")
    adapter.load_state_dict(dict(tensors), strict=False, assign=True)
    return adapter


def check_blocks(unet: Mapping[str, Any], settings: Mapping[str, Any], file: str) -> None:
    """Refuse motion modules of other blocks than the UNet's.

    Raises
    ------
    InputError
        Says both.
    """
    if unet.get("in_channels", 4) != 4:
        raise InputError(
            f"{file} holds motion modules, and the UNet reads more than noisy latents: take the network that "
            "it was made from"
        )
    widths = list(settings["block_out_channels"])
    layers, there = settings["motion_layers_per_block"], unet.get("layers_per_block", 2)
    if widths != list(unet.get("block_out_channels", ())) or layers != there:
        raise InputError(
            f"{file} holds motion modules for blocks of {widths} channels with {layers} layers, and the UNet "
            f"has {list(unet.get('block_out_channels', ()))} with {there}: they are of another base"
        )


def check_positions(
    stem: str, usual: Tensor, positions: Mapping[str, Tensor], keys: Mapping[str, str], file: str
) -> None:
    """Refuse positions in the file that are not the sines and cosines that diffusers computes.

    Raises
    ------
    InputError
        Names the key.
    """
    for name, given in positions.items():
        if not name.startswith(stem):
            continue
        if given.shape != usual.shape or (given.float() - usual).abs().max() > ROUNDED:
            raise InputError(
                f"{file}: {keys[name]!r} holds positions of its own, and diffusers' motion modules compute "
                "theirs"
            )


def take_part(source: Path, target: Path, library: str) -> None:
    """Put what is loaded of a part into ``target``: links to its files, or copies of them."""
    target.mkdir(parents=True, exist_ok=True)
    small = [p for p in sorted(source.iterdir()) if p.is_file() and p.suffix in SMALL]
    holds_weights = (source / "config.json").is_file()
    weights = list(weight_files(source, library).files) if holds_weights else []
    for path in dict.fromkeys([*small, *weights]):
        if path in small:
            shutil.copyfile(path, target / path.name)  # a configuration may be changed by hand
            continue
        try:
            os.link(path.resolve(), target / path.name)
        except OSError:
            shutil.copyfile(path, target / path.name)


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a configuration."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
