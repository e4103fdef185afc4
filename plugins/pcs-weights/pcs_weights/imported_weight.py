"""Updates that have a layer's weight to themselves, as other tools store them: DoRA, OFT, differences of norms.

DoRA (arXiv:2402.09353) in any of LyCORIS' forms (arXiv:2309.14859) as LyCORIS or as peft weighs it, diagonal
OFT (arXiv:2306.07280), differences of a norm's weight. A strength is the multiplier of the tool that wrote
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from pcs_weights.imported import Imported, Update
from pcs_weights.imported_deltas import delta_of, rotated

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Run, Site, WeightEdit

Magnitude = Literal["", "rows", "columns", "peft"]


class Rewritten(Update):
    """W' = f(W) of one layer: a magnitude of its own (DoRA), a rotation (OFT), a norm's difference."""

    def __init__(self, site: Site, tensors: Mapping[str, Tensor], magnitude: Magnitude) -> None:
        super().__init__(site, tensors)
        self.decomposed = magnitude

    def weight(self, weight: Tensor) -> Tensor:
        """Return W'."""
        parts, base = self.tensors(), weight.float()
        if "w_norm" in parts:
            return (base + self.strength * parts["w_norm"]).to(weight.dtype)
        if "oft_blocks" in parts:
            return rotated(base, parts, self.scale, self.strength).to(weight.dtype)
        magnitude = parts.pop("magnitude")
        delta = delta_of(parts, self.site.shape) * self.scale
        if self.decomposed == "peft":
            changed = base + self.strength * delta
            return (changed * (magnitude.view(rows(base)) / norms(changed, 0))).to(weight.dtype)
        axis = 0 if self.decomposed == "rows" else 1
        changed = base + delta
        shape = rows(base) if axis == 0 else columns(base)
        ratio = magnitude.view(shape) / (norms(changed, axis) + torch.finfo(base.dtype).eps)
        return (changed * (self.strength * (ratio - 1) + 1)).to(weight.dtype)


def rows(weight: Tensor) -> tuple[int, ...]:
    """Return the shape of one number for each row of a weight."""
    return (weight.shape[0], *[1] * (weight.dim() - 1))


def columns(weight: Tensor) -> tuple[int, ...]:
    """Return the shape of one number for each column of a weight."""
    return (1, weight.shape[1], *[1] * (weight.dim() - 2))


def norms(weight: Tensor, axis: int) -> Tensor:
    """Return the lengths of a weight's rows (``axis`` 0) or columns (1), in a shape that broadcasts."""
    others = [i for i in range(weight.dim()) if i != axis]
    return weight.pow(2).sum(dim=others, keepdim=True).sqrt()


class ImportedWeight(Imported):
    """An update that stands for the whole weight of chosen layers, in a form that files of other tools hold."""

    id = "weights.imported_weight"
    catalogue: ClassVar[tuple[str, ...]] = ("lora", "lokr-loha", "oft")
    tiny = {"kind": "oft", "rank": 4}

    kind: Literal["lora", "loha", "lokr", "full", "norm", "oft"] = "lora"  # type: ignore[assignment]
    """Which form: one that is added, with a ``magnitude``; the difference of a norm, or OFT's rotation."""
    magnitude: Magnitude = ""
    """Lengths of the changed weight (DoRA): of its rows or columns, as LyCORIS weighs them, or of its rows, as
    peft does. Norms and rotations have none."""
    rescaled: bool = False
    """Whether "oft" also scales each row. Its blocks are of side ``rank``."""

    def implements(self) -> tuple[str, ...]:
        """Return the family of the form."""
        return ("oft",) if self.kind == "oft" else super().implements()

    def _edit(self, run: Run, site: Site) -> WeightEdit:
        tensors = self._tensors(run, site, rescaled=self.rescaled)
        if "rescale" in tensors:
            tensors["rescale"] = torch.ones_like(tensors["rescale"])
        if self.magnitude:
            base = next(iter(run.parameters(self.part, f"{site.name}.weight").values()))
            axis = 1 if self.magnitude == "columns" else 0
            tensors["magnitude"] = norms(base.detach().float(), axis).flatten().cpu().clone()
        return Rewritten(site, tensors, self.magnitude)
