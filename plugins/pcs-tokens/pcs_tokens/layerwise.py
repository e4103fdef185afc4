"""A row of its own for each cross-attention layer (P+, arXiv:2303.09522, section 3.2).

With ``stages`` also for each stretch of the noise level (ProSpect, arXiv:2305.16225, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import nn

from pcs_core import hookimpl
from pcs_core.backbone import select_sites
from pcs_core.data import Fusion, TokenEdit
from pcs_core.errors import CapabilityError, InputError
from pcs_tokens.learnable import LearnableToken

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Features, Personalization, Run


class LayerRows(TokenEdit):
    """Rows [S, stages, layers, n, d]; with one entry of ``layers`` all layers read the same."""

    def __init__(self, start: Tensor, tokens: list[str], hosts: list[str]) -> None:
        super().__init__(tokens, count=start.shape[3], hosts=hosts, stacked=True)
        self.rows = nn.Parameter(start.clone())

    def layer(self, time: Tensor | None, layers: int, subject: Tensor | None = None) -> Tensor:
        """Return the rows [S, layers, n, d] of every layer."""
        return self.rows[:, 0].expand(-1, layers, -1, -1)


class StagedRows(LayerRows):
    """The same where the stretch of the noise level chooses; stage 0 is nearest to the picture."""

    timed = True

    def layer(self, time: Tensor | None, layers: int, subject: Tensor | None = None) -> Tensor:
        """Return the rows [b, layers, n, d] of each row's stage."""
        stages = self.rows.shape[1]
        if subject is None:
            subject = torch.zeros(1 if time is None else len(time), dtype=torch.long)
        if time is None:  # no noise level: the middle stage speaks for all
            stage = torch.full_like(subject, stages // 2)
        else:
            stage = (time * stages).long().clamp(0, stages - 1)
        return self.rows[subject, stage].expand(-1, layers, -1, -1)


class LayerwiseToken(LearnableToken):
    """Replace the placeholder by trained rows that differ from layer to layer."""

    id = "tokens.layerwise"
    rowwise = True
    catalogue = ("learnable-token", "layerwise-token", "timestep-token")

    shared: bool = False
    """Whether all layers share one set of rows after all (a token as in Textual Inversion)."""
    stages: Annotated[int, Field(ge=1, le=1000)] = 1
    """Stretches of the noise level with rows of their own; above 1 the text is encoded every step."""

    def implements(self) -> tuple[str, ...]:
        """Return what the settings make of it: rows by layer, by noise level, both or neither."""
        layers = () if self.shared else ("layerwise-token",)
        return ("learnable-token", *layers, *(("timestep-token",) if self.stages > 1 else ()))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put one stacked block of rows per concept slot, equal in all layers at the start."""
        layers = 1 if self.shared else len(run.sites("cross"))
        if not layers:
            raise CapabilityError(f"{self.id}: the denoiser has no cross-attention site")
        kind = LayerRows if self.stages == 1 else StagedRows
        edits = []
        for concepts in self._slots(features):
            start = torch.stack(
                [self._start(run, concept, subject) for subject, concept in enumerate(concepts)]
            )
            start = start[:, None, None].expand(-1, self.stages, layers, -1, -1)
            edits.append(kind(start, [c.token for c in concepts], [c.noun for c in concepts]))
        return Fusion(words=self._nouns(features) if self.with_noun else (), edits=tuple(edits))


def mix_layers(
    artifacts: Sequence[Personalization], backbone: Any, *, fine: str = ""
) -> Personalization:
    """Mix two personalizations: the first's rows at coarse layers, the second's at fine ones.

    P+, section 4.3: coarse layers (small grids) say the shape, fine ones the look. The mix is called
    by the first one's token. ``fine`` globs the second's sites; empty: the finer half of the grids.

    Raises
    ------
    InputError
        Not two personalizations of `tokens.layerwise` alone with equal shapes, or no site matches.
    """
    first, second = artifacts[0], artifacts[-1]
    uses = [[u for u in p.recipe.uses if hasattr(u.technique, "fuse")] for p in (first, second)]
    if len(artifacts) != 2 or any(
        [u.technique.id for u in artifact_uses] != ["tokens.layerwise"] for artifact_uses in uses
    ):
        raise InputError(
            "mix-layers takes two personalizations whose only edits are those of tokens.layerwise, "
            "such as p-plus"
        )
    rows = [next(iter(p.tensors.values())) for p in (first, second)]
    if rows[0].shape != rows[1].shape or any(len(p.tensors) != 1 for p in (first, second)):
        shapes = " and ".join(str(tuple(r.shape)) for r in rows)
        raise InputError(f"mix-layers: rows of shapes {shapes}, or several concepts, do not mix")
    sites = select_sites(backbone.sites, "cross")
    if rows[0].shape[1] != len(sites):
        raise InputError(
            f"{first.subject!r} shares its rows between layers: fit with shared = false"
        )
    scales = sorted({s.scale for s in sites})
    half = scales[(len(scales) - 1) // 2]
    named = {s.name for s in select_sites(sites, fine)} if fine else set()
    taken = torch.tensor([s.name in named if fine else s.scale <= half for s in sites])
    if not taken.any():
        raise InputError(f"mix-layers: no cross-attention site matches fine = {fine!r}")
    mixed = torch.where(taken[None, :, None, None], rows[1], rows[0])
    return replace(
        first,
        tensors={next(iter(first.tensors)): mixed},
        losses={},
        subject=f"{first.subject}+{second.subject}",
        extra={"merged_from": [first.subject, second.subject]},
    )
