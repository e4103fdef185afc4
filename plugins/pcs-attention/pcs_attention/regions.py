"""Inside a box, cross-attention reads the box's own prompt (Mix-of-Show, arXiv:2305.18292, section 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import AttnEdit, Fusion

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import AttnState, Conditioning, Run, Site


def cells(box: Tensor, scale: int) -> Tensor:
    """Return [b n 1], True for the places of a grid of ``scale`` that lie in ``box`` [b 1 h w].

    A place counts when at least half of it is inside; a smaller box has the place it covers most.
    """
    size = tuple(-(-side // scale) for side in box.shape[-2:])
    part = F.interpolate(box.float(), size, mode="area").flatten(2).transpose(1, 2)
    return part >= part.amax(1, keepdim=True).clamp(1e-6, 0.5)


class Rewritten(AttnEdit):
    """Replaces the output at the places of each box by what they read from the box's prompt."""

    claims = ("out",)

    def __init__(self, site: Site, ratio: float, **options: Any) -> None:
        super().__init__(site, **options)
        self.ratio = ratio

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Average what overlapping boxes say; elsewhere the output stays, bit by bit."""
        total: Any = 0.0
        covered: Any = 0
        for k in range(len(cond.masks)):
            text = cond.extra.get(f"region.{k}")
            if text is None or state.attend is None:
                continue
            where = cells(cond.masks[f"box.{k}"], self.site.scale)
            total = total + state.attend(text) * where
            covered = covered + where.long()
        if torch.is_tensor(total):
            assert state.out is not None
            inside = total / covered.clamp_min(1)
            mixed = state.out + self.ratio * (inside - state.out) if self.ratio < 1 else inside
            state.out = torch.where(covered > 0, mixed.to(state.out.dtype), state.out)
        return state


class RegionalAttention(Technique):
    """Let each box of the layout that has a prompt be drawn from this prompt. Trains nothing.

    Acts where the pictures are drawn with a layout (``pcs sample ... --layout FILE``).
    """

    id = "attention.regions"
    reads = ("place:box.*", "place:region.*")
    catalogue = ("attention-region-control",)
    reads_layout = True
    neutral = {"ratio": 0.0}

    ratio: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Share of the region's prompt inside its box; the rest is the picture's."""
    sites: str = "cross"
    """Which cross-attention sites are rewritten."""
    start: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Part of the sampling at which the rewriting begins, 0 = pure noise."""
    stop: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Part of the sampling at which it ends."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Rewrite each matching cross-attention site."""
        if self.ratio == 0.0:
            return None
        options: dict[str, Any] = {"start": self.start, "stop": self.stop, "mode": "sample"}
        cross = [s for s in run.sites(self.sites) if s.kind == "cross"]
        return Fusion(edits=tuple(Rewritten(s, self.ratio, **options) for s in cross))
