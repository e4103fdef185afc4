"""The words around a learned one read as they do around the class word.

CoRe (arXiv:2408.15914, and its `train.py` and `utils.py`) compares what the text encoder says of them, and how
much attention of the picture they get; Cones 2 (arXiv:2305.19327, and its `train_cones2.py`) the former alone,
with the encoder as it was before tuning. Neither needs a picture of the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch.utils import _pytree as pytree

from pcs_core import Technique, hookimpl
from pcs_core.data import Loss
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pcs_core.data import Conditioning, FitStep, Run, Site

PROMPTS = (
    "a photo of a {token}",
    "a {token} on the beach",
    "a {token} in the snow",
    "a {token} in a forest",
    "a {token} on a street at night",
    "a {token} beside a house",
    "a {token} under a tree",
    "a red {token}",
    "a blue {token} in a garden",
    "a {token} seen from above",
    "a painting of a {token}",
    "a drawing of a {token}",
    "a statue of a {token} on a table",
    "a {token} made of glass",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Positions [m] of the same words, in a prompt with the learned word and in that with the noun."""

    ours: Tensor
    theirs: Tensor


class Context(Technique):
    """Hold a prompt's other words to what they are where the class noun stands in the learned word's place.

    In each step a subject draws one of the prompts, and one of its concepts where it has several. A row of the
    step lends its noisy picture and its noise level to the attention, and nothing else.
    """

    id = "regularizers.context"
    rowwise = True
    catalogue = ("embedding-constraint", "attention-localization-loss")
    neutral = {"weight": 0.0, "attention": 0.0}
    tiny_beside = {"tokens.learnable": {}}

    prompts: Annotated[tuple[str, ...], Field(min_length=1)] = PROMPTS
    """Prompts, one of which is drawn in a step; ``{token}`` stands for the word, once."""
    weight: Annotated[float, Field(ge=0.0)] = 1.5e-4
    """Factor of the term on the encoder's outputs ("context"); 0: there is none."""
    distance: Literal["channels", "words", "norm"] = "channels"
    """1 - cosine of each channel over the words, averaged over channels (CoRe's code); of each word over its
    channels, averaged over words; or the unsquared norm of the whole difference (Cones 2)."""
    where: Literal["around", "before", "after"] = "around"
    """Which words: all others, or those on one side."""
    padding: bool = False
    """Whether what stands behind the end of the text counts, too."""
    attention: Annotated[float, Field(ge=0.0)] = 0.05
    """Factor of the term on attention ("context_attention"); 0: there is none. A word's share is its mean over
    places and heads; the term is the mean square of the difference over words, averaged over sites."""
    sites: str = "cross"
    """Cross-attention sites whose maps count."""
    reference: Literal["self", "base"] = "base"
    """Whether the noun's prompt is read by the network as it is being trained, or as it was."""

    def implements(self) -> tuple[str, ...]:
        """Return what the settings make of it: maps are compared under ``attention`` alone."""
        words = self.catalogue
        return words if self.attention else words[:1]

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> list[Loss] | None:
        """Return the terms: a value for each row."""
        if self.weight == 0.0 and self.attention == 0.0:
            return None
        drawn = self._drawn(run, step)
        ours = _rows({s: step.encode(text) for s, (_, _, text) in drawn.items()}, step)
        with torch.no_grad():
            plain = {s: self._plain(run, s, *which[:2]) for s, which in drawn.items()}
            said = {s: step.encode(text, model=self.reference) for s, text in plain.items()}
            theirs = _rows(said, step)
        pairs = {s: self._pair(run, s, *which[:2], ours, step) for s, which in drawn.items()}
        rows = [pairs[s] for s in step.batch.subject.tolist()]
        losses = []
        if self.weight:
            values = [
                self._away(ours.text[i, p.ours].float(), theirs.text[i, p.theirs].float())
                for i, p in enumerate(rows)
            ]
            losses.append(Loss("context", torch.stack(values), weight=self.weight))
        if self.attention:
            value = self._attention(run, step, ours, theirs, rows)
            losses.append(Loss("context_attention", value, weight=self.attention))
        return losses

    def _drawn(self, run: Run, step: FitStep) -> dict[int, tuple[str, int, str]]:
        """Return of each subject its prompt of this step, the number of a concept, and the text they make."""
        drawn = {}
        for subject in step.batch.subject.unique().tolist():
            concepts = run.features.concepts[subject]
            rng = run.subject_rng(subject, f"{self.id}/{step.phase}/{step.index}")
            prompt, k = rng.choice(self.prompts), rng.randrange(len(concepts))
            drawn[subject] = prompt, k, prompt.replace("{token}", concepts[k].token)
        return drawn

    def _plain(self, run: Run, subject: int, prompt: str, slot: int) -> str:
        """Return a prompt with the noun in the word's place."""
        return prompt.replace("{token}", run.features.concepts[subject][slot].noun)

    def _pair(
        self, run: Run, subject: int, prompt: str, slot: int, ours: Conditioning, step: FitStep
    ) -> Pair:
        """Return where the other words of a subject's prompt stand."""
        noun = run.features.concepts[subject][slot].noun
        in_front, _, _ = prompt.partition("{token}")
        row = int((step.batch.subject == subject).nonzero()[0])
        span = ours.spans[f"concept.{slot}"][row]
        span = span[span >= 0]
        first, last, length = int(span.min()), int(span.max()) + 1, ours.text.shape[1]
        there = _count(run, noun)
        # the end of the text counts; what stands in front of its first word is the encoder's own
        plain = _count(run, self._plain(run, subject, prompt, slot))
        stop = first - _count(run, in_front) + plain + 1
        stop = length if self.padding else stop
        before = torch.arange(first) if self.where != "after" else torch.arange(0)
        behind = min(stop - first - there, length - last, length - first - there)
        after = torch.arange(max(behind, 0) if self.where != "before" else 0)
        device = ours.text.device
        return Pair(
            torch.cat([before, last + after]).to(device),
            torch.cat([before, first + there + after]).to(device),
        )

    def _away(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Return how far outputs [m d] are apart."""
        if self.distance == "norm":
            return (ours - theirs).norm()
        dim = 0 if self.distance == "channels" else 1
        return 1 - F.cosine_similarity(ours, theirs, dim=dim).mean()

    def _attention(
        self,
        run: Run,
        step: FitStep,
        ours: Conditioning,
        theirs: Conditioning,
        rows: Sequence[Pair],
    ) -> Tensor:
        """Return the mean square [b] of the differences of the words' shares, over words and sites."""
        sites = [site for site in run.sites(self.sites) if site.kind == "cross"]
        if not sites:
            raise CapabilityError(f"{self.id}: no cross-attention site matches {self.sites!r}")
        mine = self._shares(step, ours, sites, "self")
        with torch.no_grad():
            known = self._shares(step, theirs, sites, self.reference)
        return torch.stack(
            [
                (mine[i][:, p.ours] - known[i][:, p.theirs]).square().mean()
                for i, p in enumerate(rows)
            ]
        )

    def _shares(
        self, step: FitStep, cond: Conditioning, sites: Sequence[Site], model: str
    ) -> Tensor:
        """Return the share [b s m] of each word in the attention of each site."""
        names = [site.name for site in sites]
        tape = step.evaluate(step.noisy, step.level, cond, record=names, model=model).tape
        rows = len(step.batch.roles)
        shares = [tape[n].float().reshape(rows, -1, tape[n].shape[-1]).mean(1) for n in names]
        return torch.stack(shares, dim=1)


def _count(run: Run, text: str) -> int:
    """Return how many tokens a text has."""
    return len(run.embed_words(text)) if text.strip() else 0


def _rows(said: Mapping[int, Conditioning], step: FitStep) -> Conditioning:
    """Return for each row of a step what was ``said`` of its subject's text."""
    if len(said) == 1:
        return next(iter(said.values()))
    index = torch.arange(len(step.batch.roles), device=step.noisy.device)
    subjects = step.batch.subject.tolist()
    parts = [said[s].rows_at(index[i : i + 1]) for i, s in enumerate(subjects)]
    joined: Conditioning = pytree.tree_map(lambda *rows: torch.cat(rows), *parts)
    return joined
