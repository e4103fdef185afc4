"""AnimateDiff's motion modules in files: with a folder of Stable Diffusion they become a model of clips.

``mm_sd_v15_v2.ckpt``, ``v3_sd15_mm.ckpt`` and what others trained from them have the authors' names; diffusers'
``MotionAdapter`` has its own, with a ``config.json`` beside. Such a file is no update of a network but part of
one: what is made of it is a model folder, which ``--backbone`` takes, and no artifact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.errors import InputError
from pcs_core.small_files import parse_json, read_text
from pcs_formats.contents import read_contents
from pcs_formats.layer_parts import split_key
from pcs_formats.motion_names import AUTHORS, MODULES, POSITIONS, diffusers_name
from pcs_formats.reading import SHOWN, Given, Reading

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_formats.contents import Contents

SERVICE = "write_motion_folder"
"""What writes the model folder: of the distribution that knows diffusers' layouts."""
HEADS = 8
"""Of every release; its tensors do not tell."""
CONFIGURATION = "config.json"
"""Beside a file that diffusers saved."""
_FIRST = re.compile(r"down_blocks\.(\d+)\.motion_modules\.(\d+)\.proj_in\.weight")
_DEPTH = re.compile(r"(down_blocks\.\d+\.)motion_modules\.0\.transformer_blocks\.(\d+)\.")
ADDED = "module."
"""What a training on several devices puts before every name."""


@dataclass(slots=True)
class MotionModules:
    """The tensors of a file by diffusers' names, positions of frames apart, and what they show.

    ``keys``: name -> key in the file. ``settings`` are those of diffusers' ``MotionAdapter``, ``problems`` why
    the file is not taken, each naming a key.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    positions: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def motion_of(contents: Contents) -> MotionModules | None:
    """Return the motion modules in a file, or None where it holds none (or updates of some: a motion LoRA).

    Raises
    ------
    InputError
        The configuration beside it is damaged.
    """
    keys = [key for key in contents.tensors if MODULES in key]
    if not keys or any(split_key(key) for key in keys):
        return None
    modules = MotionModules()
    for key, tensor in contents.tensors.items():
        if MODULES not in key:
            modules.problems.append(foreign(key))
            continue
        name = diffusers_name(key.removeprefix(ADDED))
        place = modules.positions if name.endswith(POSITIONS) else modules.tensors
        if name in modules.keys:
            modules.problems.append(f"{key!r} and {modules.keys[name]!r} are the same")
        place[name], modules.keys[name] = tensor, key
    modules.settings = settings_of(modules, contents.path)
    return modules


def foreign(key: str) -> str:
    """Return why a key of no motion module is not taken."""
    if key.removeprefix(ADDED).startswith("conv_in."):
        return f"{key!r} reads a picture beside the noise: it is of PIA, which is not supported"
    if "controlnet" in key or key.startswith("input_hint"):
        return f"{key!r} is of a control network (SparseCtrl), which this family has none of"
    return f"{key!r} is of no motion module: give the motion modules alone"


def settings_of(modules: MotionModules, path: Path) -> dict[str, Any]:
    """Return the settings of diffusers' ``MotionAdapter`` that the tensors show; heads by its configuration.

    Raises
    ------
    InputError
        There are no blocks, or the configuration beside is damaged.
    """
    widths: dict[int, int] = {}
    layers: dict[int, int] = {}
    depth: dict[str, int] = {}
    for name, tensor in modules.tensors.items():
        if match := _FIRST.fullmatch(name):
            block = int(match[1])
            widths[block] = tensor.shape[0]
            layers[block] = max(layers.get(block, 0), int(match[2]) + 1)
        if match := _DEPTH.match(name):
            depth[match[1]] = max(depth.get(match[1], 0), int(match[2]) + 1)
    if sorted(widths) != list(range(len(widths))) or not widths:
        raise InputError(f"{path} holds motion modules, and not all of their blocks: it is damaged")
    said = configuration(path)
    per_block = [layers[block] for block in sorted(layers)]
    lengths = {tensor.shape[1] for tensor in modules.positions.values() if tensor.dim() == 3}
    if len(lengths) > 1:
        modules.problems.append(
            f"its motion modules have {sorted(lengths)} positions: one number is read"
        )
    default = said.get("motion_max_seq_length", 32)
    return {
        "block_out_channels": [widths[block] for block in sorted(widths)],
        "motion_layers_per_block": per_block[0] if len(set(per_block)) == 1 else per_block,
        "motion_transformer_layers_per_block": max(depth.values(), default=1),
        "motion_num_attention_heads": said.get("motion_num_attention_heads", HEADS),
        "motion_max_seq_length": max(lengths, default=default),
        "use_motion_mid_block": any(n.startswith("mid_block.") for n in modules.tensors),
    }


def configuration(path: Path) -> Mapping[str, Any]:
    """Return the configuration of diffusers beside a file, or nothing.

    Raises
    ------
    InputError
        It is damaged, or of another class.
    """
    file = path.with_name(CONFIGURATION)
    if not path.name.startswith("diffusion_pytorch_model") or not file.is_file():
        return {}
    values = parse_json(read_text(file), str(file))
    kind = values.get("_class_name") if isinstance(values, dict) else None
    if kind != "MotionAdapter":
        raise InputError(f"{file} is of a {kind}, and the file beside it holds motion modules")
    heads = values.get("motion_num_attention_heads", HEADS)
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1:
        raise InputError(f"{file}: motion_num_attention_heads = {heads!r}: one number is read")
    return dict(values)


def read_motion(contents: Contents, backbone: Backbone | None, given: Given) -> Reading | None:
    """Return what a file of motion modules is, for who asks; it becomes a model folder and no artifact.

    Raises
    ------
    InputError
        Its configuration is damaged.
    """
    modules = motion_of(contents)
    if modules is None:
        return None
    named = (
        "the authors' names"
        if any(AUTHORS in key for key in contents.tensors)
        else "diffusers' names"
    )
    reading = Reading(f"motion modules of AnimateDiff, {named}", base_of(modules.settings))
    reading.used = set(modules.keys.values())
    reading.problems = list(modules.problems)
    reading.facts = {
        "frames": f"at most {modules.settings['motion_max_seq_length']}",
        "in the middle": "one" if modules.settings["use_motion_mid_block"] else "none",
    }
    reading.notes.append(
        "`pcs import` makes a model folder of it and of the folder of Stable Diffusion that --backbone names"
    )
    if backbone is not None:
        reading.problems.append(
            f"motion modules are no update of backbone {backbone.card.id!r}: `pcs import` makes a model of both"
        )
    return reading


def base_of(settings: Mapping[str, Any]) -> str:
    """Return the base that motion modules of these blocks are for, as far as it shows."""
    widths = tuple(settings["block_out_channels"])
    return {(320, 640, 1280, 1280): "sd (1.x)", (320, 640, 1280): "sdxl"}.get(widths, "")


def write_model(
    file: str | Path | Contents,
    base: str | Path,
    out: str | Path,
    *,
    token: str = "",
    noun: str = "",
) -> dict[str, Any]:
    """Write the model folder of a file of motion modules and of Stable Diffusion's folder ``base`` at ``out``.

    Returns what is worth saying of it: ``kind``, ``frames`` (the most that it draws) and ``notes``.

    Raises
    ------
    InputError
        The file holds none, or not those of this base; names the key. Or a ``token`` or ``noun`` is given:
        there is nothing that it could stand for.
    """
    from pcs_core import installed
    from pcs_formats.contents import Contents

    contents = file if isinstance(file, Contents) else read_contents(file)
    modules = motion_of(contents)
    if modules is None:
        raise InputError(f"{contents.path} holds no motion modules")
    if token or noun:
        raise InputError(
            f"{contents.path} holds motion modules, which learned no word: leave --token and --noun out"
        )
    if modules.problems:
        more = len(modules.problems) - SHOWN
        raise InputError(
            f"{contents.path} is not taken: {'; '.join(modules.problems[:SHOWN])}"
            + (f" (and {more} more)" if more > 0 else "")
        )
    facts = installed().get("services", SERVICE)(
        base,
        out,
        modules.tensors,
        modules.positions,
        settings=modules.settings,
        keys=modules.keys,
        file=str(contents.path),
    )
    return {"kind": "motion modules of AnimateDiff", **facts}
