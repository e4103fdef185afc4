"""Cross-attention key/value deltas (Custom Diffusion, arXiv:2212.04488, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.backbone import batched_linear
from pcs_core.data import AttnEdit, AttnState, Fusion

if TYPE_CHECKING:
    from pcs_core.data import Conditioning, Features, Run, Site

Projection = Literal["q", "k", "v"]


class ProjectionDelta(AttnEdit):
    """Stacked deltas [S, out, in] of chosen projections of one attention site.

    Where text and picture share their attention, "q" is the picture's and "k", "v" are the text's, as at
    cross-attention.
    """

    kinds = ("self", "cross", "temporal", "joint")

    def __init__(
        self,
        site: Site,
        parts: tuple[Projection, ...],
        subjects: int,
        strength: float,
        hold_start: bool = False,
    ) -> None:
        super().__init__(site, stacked=True)
        self.strength, self.hold_start = strength, hold_start
        for part in parts:
            fan_in = site.width if part == "q" else site.context
            self.register_parameter(part, nn.Parameter(torch.zeros(subjects, site.width, fan_in)))
        self.parts = parts

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Add delta times input to the projections."""
        for part in self.parts:
            source = state.x if part == "q" else state.context
            weight, before = getattr(self, part), getattr(state, part)
            delta = batched_linear(source.to(weight.dtype), weight, cond.subject)
            if state.site.kind == "joint":  # the text's rows stand behind the picture's
                n, m = state.x.shape[1], state.context.shape[1]
                delta = F.pad(delta, (0, 0, 0, m) if part == "q" else (0, 0, n, 0))
            moved = before + (self.strength * delta).to(before.dtype)
            if self.hold_start and part != "q":
                first = state.x.shape[1] if state.site.kind == "joint" else 0
                start = moved[:, first : first + 1].detach()
                moved = torch.cat([moved[:, :first], start, moved[:, first + 1 :]], dim=1)
            setattr(state, part, moved)
        return state


class KVDelta(Technique):
    """Let only chosen attention projections move, by a delta that starts at zero."""

    id = "weights.kv"
    rowwise = True
    catalogue = ("kv-finetune",)
    neutral = {"strength": 0.0}
    weighs = ("*",)
    merges_by = "closed-form"

    sites: str = "cross"
    """Which attention sites get a delta: "cross", "self", "joint", "attention", or globs joined by ``|``."""
    parts: Annotated[tuple[Projection, ...], Field(min_length=1)] = ("k", "v")
    """Projections that may move."""
    strength: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """Factor of the delta; 0 is the base network."""
    hold_start: bool = False
    """Whether the key and the value of the text's first token give no gradient, as in Custom Diffusion's code:
    that token is the same in every prompt, and what it says is of no subject."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put one delta on each matching attention site."""
        return Fusion(
            edits=tuple(
                ProjectionDelta(site, self.parts, features.subjects, self.strength, self.hold_start)
                for site in run.sites(self.sites)
                if site.kind in ("self", "cross", "joint")
            )
        )
