"""Gated rank-one edits of keys and values, the key locked (Perfusion, arXiv:2305.01644, section 4).

h(e) = W e - s(e) W i + gate(s(e)) o with s(e) = i^T C^-1 e / i^T C^-1 i and gate(s) =
sigmoid((s - beta) / tau). i is the mean encoding of the concept's word, C the second moment of text
features, o for keys the key of the super-category, for values what trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.backbone import gather
from pcs_core.data import AttnEdit, AttnState, Features, Fusion, TokenEdit
from pcs_core.errors import CapabilityError
from pcs_weights.merge import NOUNS, REGULARISATION
from pcs_weights.text_moment import encode, inverse_moment

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Run, Site, Subject

LOCAL = ("a photo of a {}",)
GLOBAL = (*LOCAL, "a picture of a {}", "a drawing of a {}", "a nice {}", "the {}")


class ConceptInput(TokenEdit):
    """i [S d] of one concept: a running mean of what the text encoder makes of its word, in fits."""

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
        turned = self.input @ self.inverse
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


class KeyLocked(AttnEdit):
    """The edit of one site. Owns the value targets [S concepts width]; the inputs are borrowed."""

    def __init__(
        self, site: Site, weights: Sequence[Tensor], inputs: Sequence[ConceptInput], gate: Any
    ) -> None:
        super().__init__(site, stacked=True)
        self.weights, self.inputs, self.gate = tuple(weights), tuple(inputs), gate
        start = torch.stack([i.superclass for i in inputs], dim=1)
        self.value = nn.Parameter(start @ weights[1].detach().float().T.to(start.device))

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Take the concept's component out of keys and values and put the targets in its place."""
        key, value = (w.detach().float() for w in self.weights)
        text = state.context.float()
        for slot, concept in enumerate(self.inputs):
            subject = cond.subject
            s = (text * gather(concept.direction, subject)[:, None]).sum(-1, keepdim=True)
            gate = self.gate(s, cond, self.training)
            own = gather(concept.input, subject)[:, None]
            locked = gather(concept.superclass, subject)[:, None] @ key.T
            trained = gather(self.value[:, slot], subject)[:, None]
            scale = self.gate.strength
            state.k = state.k + (scale * (gate * locked - s * (own @ key.T))).to(state.k.dtype)
            state.v = state.v + (scale * (gate * trained - s * (own @ value.T))).to(state.v.dtype)
        return state


class Gate:
    """The gate of a fit, and that of sampling, whose two numbers the user may change."""

    def __init__(self, technique: KeyLocking) -> None:
        self.fit = (technique.beta, technique.tau)
        self.gated, self.strength = technique.gated, technique.strength

    def __call__(self, s: Tensor, cond: Conditioning, training: bool) -> Tensor:
        """Return the gate [b m 1] at similarities of that shape."""
        if not self.gated:
            return s
        beta, tau = (torch.as_tensor(v, device=s.device) for v in self.fit)
        if not training:
            beta, tau = (cond.extra[f"key_locked.{n}"].view(-1, 1, 1) for n in ("beta", "tau"))
        return torch.sigmoid((s - beta) / tau)


class KeyLocking(Technique):
    """Give the concept's word the keys of its super-category and values of its own."""

    id = "weights.key_locked"
    catalogue = ("key-locked-edit",)
    neutral = {"strength": 0.0}

    sites: str = "cross"
    """Which cross-attention sites are edited."""
    locking: Literal["global", "local"] = "global"
    """Whether the locked key is a mean over several captions or that of "a photo of a <noun>"."""
    gated: bool = True
    """Whether a sigmoid gates the targets; without it, it is the plain rank-one edit of the weight."""
    beta: Annotated[float, Field(ge=-1.0, le=2.0)] = 0.75
    """Similarity at which the gate is half open, in a fit."""
    tau: Annotated[float, Field(gt=0.0)] = 0.1
    """Width of the gate, in a fit."""
    sample_beta: Annotated[float, Field(ge=-1.0, le=2.0)] = 0.6
    """The same at sampling; the strength ``key_locked.beta``. Raised, the text outweighs the subject."""
    sample_tau: Annotated[float, Field(gt=0.0)] = 0.15
    """The same at sampling; the strength ``key_locked.tau``."""
    decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.99
    """Decay of the running mean of the concept's input."""
    ridge: Annotated[float, Field(gt=0.0)] = 1e-2
    """Added to C, relative to its mean diagonal, before it is inverted."""
    strength: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Factor of the whole edit; 0 is the base network."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Encode the super-categories and the caption corpus with the frozen base."""
        if moment != "start":
            return None
        captions = GLOBAL if self.locking == "global" else LOCAL
        own = [
            torch.stack([w[-1] for w in encode(run, [c.format(k.noun) for c in captions])]).mean(0)
            for k in subject.concepts
        ]
        inverse = run.cached(
            f"caption-moment-{self.ridge}",
            lambda: {"inverse": inverse_moment(run, REGULARISATION, NOUNS, self.ridge)},
        )
        return Features(
            tensors={
                "key_locked.superclass": torch.stack(own),
                "key_locked.inverse": inverse["inverse"],
            }
        )

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put the edit on every site. From an artifact, what `extract` found comes with its tensors."""
        sites = [s for s in run.sites(self.sites) if s.kind == "cross"]
        if self.strength == 0.0:
            return None  # not even the placeholder is read in another way
        if not sites:
            raise CapabilityError(f"{self.id}: no cross-attention site matches {self.sites!r}")
        width = sites[0].context
        blank = torch.zeros(features.subjects, max(map(len, features.concepts)), width)
        start = features.tensors.get("key_locked.superclass", blank).float()
        inverse = features.tensors.get("key_locked.inverse", torch.eye(width)[None])[0].float()
        inputs = []
        for slot in range(start.shape[1]):
            own = [c[min(slot, len(c) - 1)] for c in features.concepts]
            tokens, nouns = [c.token for c in own], [c.noun for c in own]
            inputs.append(ConceptInput(start[:, slot], inverse, self.decay, tokens, nouns))
        edits = []
        for site in sites:
            weights = run.parameters("denoiser", f"{site.name}.to_[kv].weight")
            pair = [weights[f"{site.name}.to_{p}.weight"] for p in "kv"]
            edits.append(KeyLocked(site, pair, inputs, Gate(self)))
        strengths = {"key_locked.beta": self.sample_beta, "key_locked.tau": self.sample_tau}
        return Fusion(tokens=tuple(inputs), attention=tuple(edits), strengths=strengths)
