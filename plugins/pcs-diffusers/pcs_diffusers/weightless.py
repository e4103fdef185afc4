"""Backbones opened from their configurations alone: networks of the right shapes, no weight file is read.

A hub id needs no more than its configurations and tokenizers; they are looked for in the local cache first.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pcs_core.errors import InputError
from pcs_diffusers.animatediff import AnimateDiff, AnimateDiffInParts
from pcs_diffusers.checked import check_part
from pcs_diffusers.family import DiffusersBackbone
from pcs_diffusers.flux import Flux, FluxKontext
from pcs_diffusers.layout import TOKENIZERS
from pcs_diffusers.masked_tokens import TokenTransformer
from pcs_diffusers.stable_diffusion import StableDiffusion
from pcs_diffusers.stable_diffusion_3 import StableDiffusion3
from pcs_diffusers.stable_diffusion_xl import StableDiffusionXL
from pcs_diffusers.staying import stay
from pcs_diffusers.video import TextToVideo

FAMILIES: tuple[type[DiffusersBackbone], ...] = (
    *(StableDiffusion, StableDiffusionXL, StableDiffusion3),
    *(Flux, FluxKontext, TextToVideo, AnimateDiff, AnimateDiffInParts, TokenTransformer),
)
SMALL = ("*.json", "*.txt", "*.model")
"""Files of a hub id that hold no weights."""
UNREAD = "0" * 64
"""In place of the hash of weights that nobody read."""


def open_without_weights(
    location: str | Path,
    *,
    id: str = "",
    dtype: torch.dtype | None = None,
    making: Callable[[], AbstractContextManager[Any]],
) -> DiffusersBackbone | None:
    """Return the backbone of a folder or hub id, its networks made while ``making()`` is active.

    ``making`` decides what a new tensor is: of torch's device "meta", or a fake one. None where ``location`` is
    no layout of this plugin. What is returned moves nowhere: its networks stay as they were made.

    Raises
    ------
    InputError
        A part is missing, its configuration cannot be read, or a hub id's are neither here nor within reach.
    """
    folder = small_files_of(location)
    if folder is None:
        return None
    for family in FAMILIES:
        if not family.knows(folder):
            continue
        for part in family.layout.needed:
            if not (folder / part).is_dir():
                raise InputError(f"backbone {str(location)!r}: folder {part!r} is missing")
        family.check_config(folder)
        parts = {
            name: partial(_part, family, name, folder / name, dtype or torch.float32, making)
            for name in family.layout.parts
            if (folder / name).is_dir()
        }
        return family.of_parts(
            folder, parts, location=location, id=id, device="cpu", digest=lambda: UNREAD
        )
    return None


def small_files_of(location: str | Path) -> Path | None:
    """Return the folder with the configurations and tokenizers of ``location``, or None if it is no model's."""
    folder = Path(location).expanduser()
    if folder.is_dir():
        return folder
    text = str(location)
    if folder.exists() or text.count("/") != 1 or text.startswith((".", "/")):
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=list(SMALL)))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"backbone {text!r} is neither an installed backbone nor a folder, and its configurations could "
            f"not be fetched from the hub ({reason})"
        ) from error


def _part(
    family: type[DiffusersBackbone],
    part: str,
    folder: Path,
    dtype: torch.dtype,
    making: Callable[[], AbstractContextManager[Any]],
) -> Any:
    kind = family.layout.parts[part]
    if kind in TOKENIZERS:
        return family.layout.read_part(part, folder, dtype)
    library, _, name = kind.rpartition(".")
    check_part(folder, name)
    cls = getattr(import_module(library), name)
    with making():
        if library == "diffusers":
            network = cls.from_config(cls.load_config(folder))
        else:
            network = cls(cls.config_class.from_pretrained(folder))
        _store(network, family.part_dtype(part, folder, dtype))
    return stay(network)


def _store(network: Any, dtype: torch.dtype) -> None:
    """Store the weights in ``dtype``, as a library that reads them does: some stay in fp32 where it says so."""
    if dtype == torch.float32:
        return
    full = getattr(network, "_keep_in_fp32_modules", None) or ()
    if dtype == torch.bfloat16 and not hasattr(network, "load_config"):
        full = ()  # transformers keeps them for fp16 alone
    for name, module in network.named_modules():
        for key, weight in list(module._parameters.items()):
            if weight is None or not weight.is_floating_point():
                continue
            if not any(word in f"{name}.{key}".split(".") for word in full):
                module._parameters[key] = torch.nn.Parameter(
                    weight.detach().to(dtype), requires_grad=False
                )
