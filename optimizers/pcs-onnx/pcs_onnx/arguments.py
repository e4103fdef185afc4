"""The inputs of a graph: what each one is, which axes stay open, and how an edit's tensors become some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import Conditioning
from pcs_onnx.edits import axes, input_name, tensors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from pcs_core.data import Edit

SLOTS = 4096
"""Most vectors of a feature or tokens of a stream: references times what an encoder gives for each."""
ROWS = 63
"""Largest batch of a graph: an upsampling layer of diffusers asks whether it is 64 or more."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One input of a graph.

    ``kind``: latents, time, text, pooled, layered, stream, strength, residual, image, feature, embeds, ids
    or tensor. The first axis of all but tensors is the batch. ``path`` is that of a tensor below the root;
    ``axis`` the one along which it may be filled up with zeros, or None. ``grid`` is its side over the
    latents' (0: it is no picture). ``slots``: the axes between the first and the last are
    open too, for a subject of more references or fewer.
    """

    name: str
    kind: str
    example: Tensor
    path: str = ""
    axis: int | None = None
    grid: float = 0.0
    slots: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """Which sizes of latents a graph takes: ``step`` divides height and width, 0 is one size only."""

    step: int = 0

    def dims(self, arguments: Sequence[Argument]) -> tuple[dict[int, Any], ...]:
        """Return the open axes of each argument, as ``torch.export`` names them."""
        batch = torch.export.Dim("batch", min=1, max=ROWS)
        height, width = (torch.export.Dim(n, min=1, max=512) for n in ("height", "width"))
        open_axes: list[dict[int, Any]] = []
        for index, argument in enumerate(arguments):
            open_: dict[int, Any] = {} if argument.kind == "tensor" else {0: batch}
            if argument.slots:
                for axis in range(1, argument.example.dim() - 1):
                    open_[axis] = torch.export.Dim(f"slots_{index}_{axis}", min=1, max=SLOTS)
            if self.step and argument.grid:
                times = round(self.step * argument.grid)
                many = {2: height, 3: width}
                open_ |= {k: d if times == 1 else times * d for k, d in many.items()}
            open_axes.append(open_)
        return tuple(open_axes)

    def larger(self, argument: Argument) -> tuple[int, ...]:
        """Return the shape of an argument where the latents have one more ``step`` a side."""
        shape = list(argument.example.shape)
        if argument.grid:
            more = round(self.step * argument.grid)
            shape[2:] = [n + more for n in shape[2:]]
        return tuple(shape)


def plain(kinds: Mapping[str, Any], grids: Mapping[str, float] | None = None) -> list[Argument]:
    """Return arguments that are no tensors of edits: ``"kind"`` or ``"kind/name"`` -> example."""
    known = {"latents": 1.0, **(grids or {})}
    arguments = []
    for name, value in kinds.items():
        kind = name.split("/")[0]
        # a trace closes an axis of one
        slots = kind in ("feature", "stream") and min(value.shape[1:-1], default=1) > 1
        arguments.append(Argument(name, kind, value, grid=known.get(name, 0.0), slots=slots))
    return arguments


def lift(edits: Sequence[Edit], baked: Collection[str]) -> list[Argument]:
    """Return an argument for each tensor of ``edits`` that is not in ``baked``."""
    arguments = []
    for index, edit in enumerate(edits):
        for path, value in tensors(edit).items():
            name = input_name(edit, path)
            if name not in baked:
                example = value.detach().clone()
                arguments.append(
                    Argument(name, "tensor", example, f"edits.{index}.{path}", axes(edit).get(path))
                )
    return arguments


def conditioning(
    arguments: Sequence[Argument], values: Sequence[Tensor]
) -> tuple[Conditioning, dict[str, Tensor], list[Tensor]]:
    """Return the conditioning, what else stands alone by kind, and the residuals in order."""
    one: dict[str, Tensor] = {}
    many: dict[str, dict[str, Tensor]] = {"stream": {}, "strength": {}, "residual": {}}
    for argument, value in zip(arguments, values, strict=True):
        if argument.kind in many:
            many[argument.kind][argument.name.split("/", 1)[1]] = value
        else:
            one[argument.kind] = value
    cond = Conditioning(
        text=one["text"],
        layered=one.get("layered"),
        pooled=one.get("pooled"),
        streams=many["stream"],
        extra=many["strength"],
    )
    return cond, one, list(many["residual"].values())
