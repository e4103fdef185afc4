"""Gated rank-one edits of keys and values, the key locked (Perfusion, arXiv:2305.01644, section 4).

h(e) = W e - s(e) W i + gate(s(e)) o with s(e) = i^T C^-1 e / i^T C^-1 i and gate(s) =
sigmoid((s - beta) / tau). i is the mean encoding of the concept's word, C the second moment of text
features, o for keys the key of the super-category, for values what trains.

Keys are locked to the super-category in one of two ways. Locally, e is the encoding of the prompt with the
concept's word, for keys as for values. Globally, at sampling, the keys of the whole prompt are made of the
encoding of the prompt with the super-category's word in the concept's place, read by the untuned encoder;
values still read the concept's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Fusion
from pcs_core.errors import CapabilityError
from pcs_weights.corpus import captions
from pcs_weights.rank_one import ConceptInput, Gate, KeyLocked, SuperCategory
from pcs_weights.text_moment import encode, inverse_moment

if TYPE_CHECKING:
    from pcs_core.data import Run, Subject

ONE = ("a photo of a {}",)
SEVERAL = (*ONE, "a picture of a {}", "a drawing of a {}", "a nice {}", "the {}")


class KeyLocking(Technique):
    """Give the concept's word the keys of its super-category and values of its own."""

    id = "weights.key_locked"
    rowwise = True
    writes = (
        "feature:key_locked.superclass",
        "feature:key_locked.inverse",
        "strength:key_locked.beta",
        "strength:key_locked.tau",
        "strength:key_locked.strength",
    )
    catalogue = ("key-locked-edit",)
    neutral = {"strength": 0.0}
    tiny = {"captions": 200}
    starts_away = "the concept's key is locked to its noun's from the first step on"

    sites: str = "cross"
    """Which cross-attention sites are edited."""
    locking: Literal["prompt", "word", "global", "local"] = "prompt"
    """What is locked at sampling: the keys of the whole prompt (the paper's global locking) or of the concept's
    word alone (its local locking). "global" and "local" are what earlier versions called these: the word alone,
    its key a mean over several captions or that of "a photo of a <noun>"."""
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
    captions: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    """Captions, made from words, whose text features C is the second moment of, at every position. The paper
    takes 100000 of a data set. Their inverse is made once for a fit, none for a drawing."""
    ridge: Annotated[float, Field(ge=0.0)] = 0.0
    """Added to C, relative to its mean diagonal, before it is inverted; 0: C must have full rank."""
    strength: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Factor of the whole edit; 0 is the base network. At sampling the strength ``key_locked.strength``."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Encode the super-categories and the caption corpus with the frozen base."""
        if moment != "start":
            return None
        forms = ONE if self.locking == "local" else SEVERAL
        superclasses = [
            torch.stack([w[-1] for w in encode(run, [c.format(k.noun) for c in forms])]).mean(0)
            for k in subject.concepts
        ]
        inverse = run.cached(
            f"caption-moment-{self.captions}-{self.ridge}",
            lambda: {"inverse": inverse_moment(run, captions(self.captions), self.ridge).cpu()},
        )
        return Features(
            tensors={
                "key_locked.superclass": torch.stack(superclasses),
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
        inverse = features.tensors.get("key_locked.inverse", torch.eye(width)[None])[0].double()
        inputs: list[ConceptInput] = []
        classes = []
        for slot in range(start.shape[1]):
            concepts = [c[min(slot, len(c) - 1)] for c in features.concepts]
            tokens, nouns = [c.token for c in concepts], [c.noun for c in concepts]
            inputs.append(ConceptInput(start[:, slot], inverse, self.decay, tokens, nouns))
            if self.locking == "prompt":
                rows = [run.embed_words(noun).mean(0, keepdim=True).cpu() for noun in nouns]
                classes.append(SuperCategory(torch.stack(rows), tokens, nouns))
        gate = Gate(self.beta, self.tau, gated=self.gated, strength=self.strength)
        edits = []
        for site in sites:
            pair = [run.projection(site, part).weight for part in "kv"]
            edits.append(KeyLocked(site, pair, inputs, gate))
        strengths = {
            "key_locked.beta": self.sample_beta,
            "key_locked.tau": self.sample_tau,
            "key_locked.strength": self.strength,
        }
        return Fusion(edits=(*inputs, *classes, *edits), strengths=strengths)
