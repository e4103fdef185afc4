"""A learned vector is added to the value of the concept's word in each layer (Infusion, arXiv:2404.14007).

Keys stay: where the word is attended to is not learned, only what is read there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.backbone import gather
from pcs_core.data import AttnEdit, Fusion, Words
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import AttnState, Conditioning, Features, Run, Site

SCALE = "value_residual.scale"


class ValueResidual(AttnEdit):
    """Vectors [S slots width], one for each concept of a subject, added to v where its words stand."""

    def __init__(self, site: Site, subjects: int, slots: int, width: int) -> None:
        super().__init__(site, stacked=True)
        self.residual = nn.Parameter(torch.zeros(subjects, slots, width))

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Add to the values [b m width]."""
        rows = gather(self.residual, cond.subject).to(state.v)
        scale = cond.extra.get(SCALE)
        for slot in range(rows.shape[1]):
            span = cond.spans.get(f"concept.{slot}")
            if span is None:
                continue
            added = places(span, state.v.shape[1]).to(rows)[..., None] * rows[:, slot, None]
            if scale is not None:
                added = added * scale.to(rows).view(-1, 1, 1)
            state.v = state.v + added.repeat_interleave(len(state.v) // len(added), dim=0)
        return state


def places(span: Tensor, length: int) -> Tensor:
    """Return where [b length] the positions of ``span`` [b n] are (-1: nowhere)."""
    counts = span.new_zeros(span.shape[0], length)
    return counts.scatter_add(1, span.clamp_min(0), (span >= 0).to(counts)) > 0


class ValueResiduals(Technique):
    """Learn a vector for each cross-attention layer that is added to the value of the concept's word."""

    id = "attention.value_residual"
    rowwise = True
    catalogue = ("key-locked-edit",)
    neutral = {"scale": 0.0}
    weighs = ("*/residual",)
    tiny_beside = {"tokens.rare": {"identifier": ""}}

    sites: str = "cross"
    """Which cross-attention layers have one."""
    scale: Annotated[float, Field(ge=0.0, le=4.0)] = 1.0
    """Factor of the vectors, in a fit and (as the strength ``value_residual.scale``) when drawing."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(reads=("place:concept.*",), writes=(f"strength:{SCALE}",))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Make the vectors, zero at first."""
        sites = [site for site in run.sites(self.sites) if site.kind == "cross"]
        if not sites:
            raise CapabilityError(f"{self.id}: no cross-attention matches {self.sites!r}")
        slots = max(len(concepts) for concepts in features.concepts)
        edits = tuple(
            ValueResidual(site, features.subjects, slots, run.projection(site, "v").weight.shape[0])
            for site in sites
        )
        return Fusion(edits=edits, strengths={SCALE: self.scale})
