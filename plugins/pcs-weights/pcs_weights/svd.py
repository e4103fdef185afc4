"""Shifts of singular values: W' = U diag(relu(s + shift)) V^T (SVDiff, arXiv:2303.11305, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion, WeightEdit
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Run, Site

Kind = Literal["linear", "conv", "norm"]


class SpectralShift(WeightEdit):
    """A shift [r] of the singular values of one weight, r = min(out, in).

    A convolution [out in k k] is the matrix [out, in k k], a vector [c] the matrix [1, c], so that its
    only singular value is its length.
    """

    def __init__(self, site: Site, weight: Tensor, strength: float) -> None:
        super().__init__(site)
        self.strength = strength
        left, values, right = torch.linalg.svd(matrix(weight.detach().float()), full_matrices=False)
        # of the base, and so not stored: an artifact holds the shifts alone
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.shift = nn.Parameter(torch.zeros_like(values))

    def weight(self, weight: Tensor) -> Tensor:
        """Return W' of the shape and type of W.

        Written as W + U diag(relu(s + shift) - s) V^T, which is W to the bit where nothing shifts.
        """
        assert isinstance(self.values, torch.Tensor)
        change = (self.values + self.strength * self.shift).relu() - self.values
        delta = (self.left * change) @ self.right  # type: ignore[operator]
        return weight + delta.reshape(weight.shape).to(weight.dtype)


def matrix(weight: Tensor) -> Tensor:
    """Return ``weight`` as the matrix [out, in] whose singular values shift."""
    return weight[None] if weight.dim() == 1 else weight.flatten(1)


class SpectralShifts(Technique):
    """Train only the singular values of chosen weights; their directions stay the base's.

    No subject axis: several subjects are fitted one after the other.
    """

    id = "weights.svd"
    rowwise = True
    catalogue = ("svd-finetune",)
    neutral = {"strength": 0.0}
    weighs = ("*/shift",)
    stacks_subjects = False

    sites: str = "*"
    """Globs over layer names, joined by ``|``."""
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("linear", "conv", "norm")
    """Kinds of layers taken among the matches. Biases stay as they are."""
    parts: Annotated[tuple[Literal["denoiser", "text"], ...], Field(min_length=1)] = ("denoiser",)
    """Networks whose weights are shifted."""
    strength: Annotated[float, Field(ge=0.0, le=4.0)] = 1.0
    """Factor of the shifts; 0 is the base network."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Decompose every matching weight once and put a shift on it."""
        edits = []
        for part in self.parts:
            weights = run.parameters(part, "*.weight")
            for site in run.sites(self.sites, "*", part):
                if site.kind in self.kinds:
                    edits.append(SpectralShift(site, weights[f"{site.name}.weight"], self.strength))
        if not edits:
            raise CapabilityError(
                f"{self.id}: no layer of kind {' or '.join(self.kinds)} in {' or '.join(self.parts)} "
                f"matches {self.sites!r}"
            )
        names = [edit.name for edit in edits]
        for edit in edits:  # two parts may have a layer of one name
            if names.count(edit.name) > 1:
                edit.name = str(edit.site)
        return Fusion(edits=tuple(edits))
