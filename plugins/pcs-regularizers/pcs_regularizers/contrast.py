"""A learned word is drawn to words that describe it and pushed from others (InfoNCE with several positives).

Lego's context loss (arXiv:2311.13833, section 3.2) and ReVersion's steering loss (arXiv:2303.13495, section
4.2) both say that of a word's rows and the rows of the vocabulary's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Loss
from pcs_core.errors import CapabilityError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Run


class Contrast(Technique):
    """Penalise -log of the share that positive words have of a trained row's neighbourhood.

    The share of a word is exp(cosine / temperature) of the row and the word's mean row, over the sum of those
    of all words. The value is the mean over rows.
    """

    id = "regularizers.contrast"
    rowwise = True
    catalogue = ("contrastive-loss",)
    neutral = {"weight": 0.0}
    tiny = {"positive": ["dog"], "negative": ["cat", "snow"]}
    tiny_beside = {"tokens.learnable": {}}

    params: str = "*/rows"
    """Glob over what trains, "<use>/<token>/<parameter>"; vectors are along the last axis."""
    kinds: tuple[str, ...] = ()
    """Kinds of concepts whose words count, as "property"; empty, or where a subject has none of them: all."""
    positive: tuple[str, ...] = ()
    """Words that describe what is learned; ``{noun}`` is the class noun."""
    negative: tuple[str, ...] = ()
    """Words that do not; the noun itself is left out of them where it stands among them."""
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 0.07
    """What cosines are divided by."""
    draw: Annotated[int, Field(ge=0)] = 0
    """How many of the positive words a step draws, as ReVersion's; 0: all."""
    weight: Annotated[float, Field(ge=0.0)] = 1e-2
    """Factor of the term."""
    term: str = "contrast"
    """Name of the term, by which a phase chooses it."""

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return the term, for each row of the step that of its subject."""
        if self.weight == 0.0:
            return None
        if not self.positive or not self.negative:
            raise RecipeError(f"{self.id}: it compares `positive` and `negative` words: name both")
        trained = run.trained(self.params)
        if not trained:
            raise RecipeError(f"{self.id}: nothing that trains matches {self.params!r}")
        subjects = step.batch.subjects
        values = []
        for name, value in trained.items():
            token = name.split("/")[-2]
            slot = next(
                (k for k, c in enumerate(run.features.concepts[0]) if c.token == token), None
            )
            if slot is not None and not self._counts(run, slot):
                continue
            rows = value.reshape(subjects, -1, value.shape[-1])
            values.append(
                torch.stack(
                    [self._of(run, s, slot or 0, rows[s], step.index) for s in range(subjects)]
                )
            )
        total = torch.cat(values, dim=1).mean(1)
        return Loss(self.term, total[step.batch.subject], weight=self.weight)

    def _counts(self, run: Run, slot: int) -> bool:
        """Return whether the words of a concept count."""
        concepts = run.features.concepts[0]
        some = any(c.kind in self.kinds for c in concepts)
        return not some or concepts[slot].kind in self.kinds

    def _of(self, run: Run, subject: int, slot: int, rows: Tensor, step: int) -> Tensor:
        """Return the value [n] of each of a concept's rows [n d]."""
        concepts = run.features.concepts[subject]
        noun = concepts[min(slot, len(concepts) - 1)].noun
        positive = list(dict.fromkeys(w.replace("{noun}", noun) for w in self.positive))
        if self.draw:
            rng = run.subject_rng(subject, f"{self.id}/{step}")
            positive = rng.sample(positive, min(self.draw, len(positive)))
        negative = [w for w in self.negative if w not in positive and w != noun]
        if not negative:
            raise RecipeError(f"{self.id}: all `negative` words are positive ones: name others")
        table = torch.stack([run.embed_words(word).mean(0) for word in (*positive, *negative)])
        if table.shape[-1] != rows.shape[-1]:
            raise CapabilityError(
                f"{self.id}: {self.params} are vectors of {rows.shape[-1]} elements, words {table.shape[-1]}"
            )
        near = F.normalize(rows.float(), dim=-1) @ F.normalize(table.to(rows).float(), dim=-1).T
        logits = near / self.temperature
        return logits.logsumexp(-1) - logits[:, : len(positive)].logsumexp(-1)
