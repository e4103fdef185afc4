"""What the update of one layer is: which technique holds it, with which settings and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import InputError
from pcs_formats.other_forms import other_form

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Site
    from pcs_formats.alphas import Alpha
    from pcs_formats.layer_parts import LayerParts


@dataclass(frozen=True, slots=True)
class Form:
    """A use's technique, the settings that tell its groups apart, and the tensors of one site by parameter."""

    technique: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def form_of(site: Site, layer: LayerParts, alpha: Alpha) -> Form:
    """Return what the update of ``site`` becomes.

    Raises
    ------
    InputError
        A part is missing, too many, or of another shape than the layer's.
    """
    parts = {part for part in layer.parts if part != "alpha"}
    for part, other in (("down", "up"), ("up", "down")):
        if part in parts and other not in parts:
            raise InputError(
                f"the layer of {layer.keys[part]!r} lacks {other!r}: the file is damaged"
            )
    if parts == {"down", "up"} and site.kind in ("linear", "conv"):
        form = low_rank(site, layer, alpha.value)
        if form is not None:
            return form
    technique, settings, tensors = other_form(site, layer, alpha.value)
    if alpha.factor is not None:
        tensors = {**tensors, "scale": torch.tensor(alpha.factor)}
    return Form(technique, settings, tensors)


def low_rank(site: Site, layer: LayerParts, alpha: float | None) -> Form | None:
    """Return the update as ``weights.lora`` holds it, or None where its rank is above the layer's own.

    Raises
    ------
    InputError
        The tensors are of another shape than the layer.
    """
    down, up = layer.parts["down"], layer.parts["up"]
    rank, fan_in = down.shape[0], prod(site.shape[1:])
    for part, tensor, shape in (
        ("down", down, (rank, *site.shape[1:])),
        ("up", up, (site.shape[0], rank)),
    ):
        if without_ones(tensor.shape) != without_ones(shape):
            raise InputError(
                f"{layer.keys[part]!r} is {size(tensor.shape)}, and this network's layer of "
                f"{size(site.shape)} takes {size(shape)}: it is made for another base"
            )
    if rank > min(site.shape[0], fan_in):
        return None
    settings = {"rank": rank, "alpha": float(rank if alpha is None else alpha)}
    if settings["alpha"] < 0:
        raise InputError(f"{layer.keys['alpha']!r} is negative: {alpha:g}")
    tensors = {"A": down.reshape(rank, fan_in), "B": up.reshape(site.shape[0], rank)}
    return Form("weights.lora", settings, tensors)


def without_ones(shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
    """Return ``shape`` without the ones behind its second number: a 1x1 convolution is a linear map."""
    whole = tuple(shape)
    while len(whole) > 2 and whole[-1] == 1:
        whole = whole[:-1]
    return whole


def size(shape: torch.Size | tuple[int, ...]) -> str:
    """Return a shape in words."""
    return " x ".join(map(str, shape)) or "one number"
