"""Learned words of the negative prompt, trained with the positive ones by the guided prediction.

DreamArtist (arXiv:2211.11337) calls it contrastive prompt tuning: the prediction that is compared with the
noise is what guidance will make of both prompts, e- + gamma (e+ - e-), so that one loss says to the positive
words what to draw and to the negative ones what to leave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import nn
from torch.utils import _pytree as pytree

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion, Loss, TokenEdit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Features, FitStep, Run


class NegativeRows(TokenEdit):
    """Rows [S n d] that stand where the negative prompt names them."""

    def __init__(self, start: Tensor, token: str, hosts: list[str]) -> None:
        super().__init__([token] * len(start), count=start.shape[1], hosts=hosts, stacked=True)
        self.rows = nn.Parameter(start.clone())

    def vocabulary(self) -> Tensor:
        """Return the rows."""
        return self.rows


class NegativeWords(Technique):
    """Learn words for the negative prompt, and train them and all else by the guided prediction.

    A phase that trains so names the loss "negative.guided" alone (``losses``). A caption's negative is the
    caption with ``token`` in place of the subject's token. Drawings read the words where ``[sample] negative``
    or the user's own negative prompt names ``token``.
    """

    id = "tokens.negative"
    rowwise = True
    catalogue = ("learnable-token", "branch-guidance")
    weighs = ("*/rows",)
    tiny_beside = {"tokens.rare": {"identifier": "<negative>"}}  # a prompt that names its word

    token: str = "<negative>"
    """The word of negative prompts."""
    vectors: Annotated[int, Field(ge=1, le=64)] = 3
    """Rows that the word takes."""
    noise: Annotated[float, Field(ge=0.0, le=1.0)] = 1e-3
    """Standard deviation of what is added to each element of the rows' start, the noun's rows."""
    scale: Annotated[float, Field(ge=1.0, le=30.0)] = 5.0
    """Guidance scale gamma of the prediction in the loss; at 1 the negative words learn nothing."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the loss."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put the rows into the vocabulary."""
        nouns = [concepts[0].noun for concepts in features.concepts]
        start = torch.stack([self._start(run, noun, s) for s, noun in enumerate(nouns)])
        return Fusion(edits=(NegativeRows(start, self.token, nouns),))

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss:
        """Return the error of e- + gamma (e+ - e-), a value for each of the subject's rows."""
        positive = step.output
        cond = self._conditioning(run, step)
        negative = step.evaluate(step.noisy, step.level, cond).output
        guided = negative + self.scale * (positive - negative)
        error = step.compute_error(guided, step.target)
        value = error.mean(dim=tuple(range(1, error.dim())))
        return Loss("negative.guided", value, weight=self.weight, rows=step.batch.rows("subject"))

    def _conditioning(self, run: Run, step: FitStep) -> Conditioning:
        """Return what each row is told by its caption's negative."""
        texts = [self._negative(run, *row) for row in _rows(step)]
        said = {text: step.encode(text) for text in dict.fromkeys(texts)}
        index = torch.arange(len(texts), device=step.noisy.device)
        parts = [said[text].rows_at(index[i : i + 1]) for i, text in enumerate(texts)]
        joined: Conditioning = pytree.tree_map(lambda *rows: torch.cat(rows), *parts)
        return joined

    def _negative(self, run: Run, caption: str, subject: int) -> str:
        for concept in run.features.concepts[subject]:
            caption = caption.replace(concept.token, self.token)
        return caption

    def _start(self, run: Run, noun: str, subject: int) -> Tensor:
        row = run.embed_words(noun).mean(dim=0).cpu()
        rng = run.init_rng(subject, self.id)
        return row + self.noise * torch.randn(self.vectors, len(row), generator=rng)


def _rows(step: FitStep) -> list[tuple[str, int]]:
    """Return the caption and the subject of each row."""
    return list(zip(step.batch.captions, step.batch.subject.tolist(), strict=True))
