"""A neighbour for the technique under test: a small trainable edit that any recipe can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from pcs_core.backbone import gather
from pcs_core.data import AttnEdit, Fusion
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique

if TYPE_CHECKING:
    from pcs_core.data import AttnState, Conditioning, Features, Run, Site


class OutputScale(AttnEdit):
    """Stacked factors [S, width] of one attention site's output; zero is the base."""

    kinds = ("self", "cross", "temporal", "joint")

    def __init__(self, site: Site, subjects: int) -> None:
        super().__init__(site, stacked=True)
        self.scale = nn.Parameter(torch.zeros(subjects, site.width))

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Scale the output, each row by its own subject's factors."""
        assert state.out is not None
        state.out = state.out * (1 + gather(self.scale, cond.subject)[:, None])
        return state


class Probe(Technique):
    """Scale the outputs of attention sites."""

    id = "testing.probe"
    rowwise = True

    sites: str = "attention.cross|attention.joint"
    """Which attention sites are scaled."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put one scale on each matching site."""
        return Fusion(
            edits=tuple(OutputScale(site, features.subjects) for site in run.sites(self.sites))
        )
