"""The edits of Perfusion: a concept's mean input, and keys and values moved by gated rank-one terms.

The formulas stand in :mod:`pcs_weights.key_locked`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from pcs_core.backbone import gather
from pcs_core.data import AttnEdit, AttnState, TokenEdit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Site

PROMPT = "key_locked.prompt"
"""Name of what the base makes of the super-category's prompt [b l d], in ``Conditioning.extra``."""


class ConceptInput(TokenEdit):
    """i [S d] of one concept: a running mean of what the text encoder makes of its word, in fits."""

    inverse: Tensor
    superclass: Tensor
    input: Tensor
    direction: Tensor

    def __init__(
        self, start: Tensor, inverse: Tensor, decay: float, tokens: list[str], hosts: list[str]
    ) -> None:
        super().__init__(tokens, count=1, hosts=hosts, mode="fit", stacked=True)
        self.decay = decay
        self.register_buffer("inverse", inverse, persistent=False)
        self.register_buffer("superclass", start.clone())
        self.register_buffer("input", start.clone())
        self.register_buffer("direction", torch.zeros_like(start))
        self.point()

    def point(self) -> None:
        """Set ``direction`` [S d] = C^-1 i / i^T C^-1 i, so that s(e) is its product with e."""
        turned = (self.input.double() @ self.inverse).float()
        self.direction.copy_(turned / (turned * self.input).sum(1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def output(self, text: Tensor, span: Tensor, cond: Conditioning) -> Tensor:
        """Return ``text`` as it is; move i towards the encodings [b d] at ``span``."""
        there = span[:, 0] >= 0
        if self.training and there.any():
            rows = torch.arange(len(span), device=text.device)[there]
            seen = text.detach().float()[rows, span[there, 0]]
            owner = torch.zeros_like(rows) if cond.subject is None else cond.subject[there]
            count = torch.zeros_like(self.input[:, :1]).index_add(
                0, owner, torch.ones_like(seen[:, :1])
            )
            mean = torch.zeros_like(self.input).index_add(0, owner, seen) / count.clamp_min(1)
            step = (1 - self.decay) * (count > 0)
            self.input.add_(step * (mean - self.input))
            self.point()
        return text


class SuperCategory(TokenEdit):
    """The prompt with the super-category's word in the concept's place, as the base reads it, at sampling.

    ``rows`` [S 1 d] are the noun's rows of the token table, their mean where it has several.
    """

    untuned = PROMPT
    rows: Tensor

    def __init__(self, rows: Tensor, tokens: list[str], hosts: list[str]) -> None:
        super().__init__(tokens, count=1, hosts=hosts, mode="sample", stacked=True)
        # of the base, and so not stored
        self.register_buffer("rows", rows, persistent=False)

    def instead(self) -> Tensor:
        """Return the noun's rows."""
        return self.rows

    def output(self, text: Tensor, span: Tensor, cond: Conditioning) -> Tensor:
        """Return ``text`` as it is."""
        return text


class KeyLocked(AttnEdit):
    """The edit of one site. Owns the value targets [S concepts width]; the inputs are borrowed."""

    def __init__(
        self, site: Site, weights: Sequence[Tensor], inputs: Sequence[ConceptInput], gate: Gate
    ) -> None:
        super().__init__(site, stacked=True)
        self.weights, self.inputs, self.gate = tuple(weights), tuple(inputs), gate
        start = torch.stack([i.superclass for i in inputs], dim=1)
        self.value = nn.Parameter(start @ weights[1].detach().float().T.to(start.device))

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Take the concept's component out of keys and values and put the targets in its place."""
        key, value = (w.detach().float() for w in self.weights)
        text, subject = state.context.float(), cond.subject
        scale = self.gate.scale(cond, self.training)
        read = cond.extra.get(PROMPT)
        asked = text if read is None else read.to(text)  # what keys are made of
        if read is not None:
            state.k = state.k + (scale * ((asked - text) @ key.T)).to(state.k.dtype)
        for slot, concept in enumerate(self.inputs):
            direction, concept_input = (
                gather(t, subject)[:, None] for t in (concept.direction, concept.input)
            )
            s, s_key = ((t * direction).sum(-1, keepdim=True) for t in (text, asked))
            gate, gate_key = (self.gate(t, cond, self.training) for t in (s, s_key))
            locked = gather(concept.superclass, subject)[:, None] @ key.T
            trained = gather(self.value[:, slot], subject)[:, None]
            k, v = (
                gate_key * locked - s_key * (concept_input @ key.T),
                gate * trained - s * (concept_input @ value.T),
            )
            state.k = state.k + (scale * k).to(state.k.dtype)
            state.v = state.v + (scale * v).to(state.v.dtype)
        return state


class Gate:
    """The gate and strength of a fit, and those of sampling, whose three numbers the user may change."""

    def __init__(self, beta: float, tau: float, *, gated: bool, strength: float) -> None:
        self.fit = (beta, tau)
        self.gated, self.strength = gated, strength

    def __call__(self, s: Tensor, cond: Conditioning, training: bool) -> Tensor:
        """Return the gate [b m 1] at similarities of that shape."""
        if not self.gated:
            return s
        beta, tau = (torch.as_tensor(v, device=s.device) for v in self.fit)
        if not training:
            beta, tau = (cond.extra[f"key_locked.{n}"].view(-1, 1, 1) for n in ("beta", "tau"))
        return torch.sigmoid((s - beta) / tau)

    def scale(self, cond: Conditioning, training: bool) -> Tensor | float:
        """Return the factor of the whole edit, at sampling one a row [b 1 1]."""
        chosen = None if training else cond.extra.get("key_locked.strength")
        return self.strength if chosen is None else chosen.view(-1, 1, 1)
