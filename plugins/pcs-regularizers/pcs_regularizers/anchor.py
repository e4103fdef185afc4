"""What is learned stays near a value: nothing, its start, the class word or given words.

The unsquared norm of the way from the start is Cross Initialization's (arXiv:2312.15905, and its
`train_cross_init.py`), the mean square of the distance to a word Compositional Inversion's (arXiv:2312.08048,
and its `train_compositional_textual_inversion.py`), the mean absolute value of predicted words ELITE's
(arXiv:2302.13848).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Loss, Words
from pcs_core.errors import CapabilityError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Run


class Anchor(Technique):
    """Penalise the distance of trained tensors, or of predicted tokens, to a value.

    A tensor is taken as vectors along its last axis. With several ``texts`` each vector is compared with the
    nearest of them. All that matches ``params`` is one set of elements, or of vectors.
    """

    id = "regularizers.anchor"
    rowwise = True
    catalogue = ("embedding-constraint",)
    neutral = {"weight": 0.0}
    tiny_beside = {"tokens.learnable": {}}

    params: str = "*/rows"
    """Glob over what trains, "<use>/<site or token>/<parameter>"; not read where ``stream`` is given."""
    stream: str = ""
    """Name of conditioning tokens that are penalised in place of trained tensors, as those of an encoder."""
    to: Literal["zero", "start", "noun", "texts"] = "start"
    """What is near: nothing, the value before the first step, the mean row of the class noun, or ``texts``."""
    texts: tuple[str, ...] = ()
    """Words whose mean rows are near, where ``to`` is "texts"."""
    form: Literal["l1", "l2", "norm"] = "l2"
    """Absolute values of elements, their squares, or the unsquared norm of each vector."""
    reduce: Literal["mean", "sum"] = "mean"
    """How elements (vectors, with "norm") are brought together."""
    weight: Annotated[float, Field(ge=0.0)] = 1e-2
    """Factor of the term."""
    term: str = "anchor"
    """Name of the term, by which a phase chooses it."""

    def words(self) -> Words:
        """Return the stream that it reads, where it reads one."""
        return Words(reads=(f"stream:{self.stream}",) if self.stream else ())

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return the term, a value for each row: that of its subject, or of its own tokens."""
        if self.weight == 0.0:
            return None
        if self.to == "texts" and not self.texts:
            raise RecipeError(f'{self.id}: `to` is "texts", and `texts` names none')
        if self.stream:
            tokens = step.cond.streams[self.stream]
            if self.to != "zero":
                raise RecipeError(f'{self.id}: tokens of a stream are near "zero" alone')
            parts = [(tokens, torch.zeros_like(tokens[:, :1]))]
            return Loss(self.term, self._joined(parts), weight=self.weight)
        subjects = step.batch.subjects
        trained = run.trained(self.params)
        if not trained:
            raise RecipeError(f"{self.id}: nothing that trains matches {self.params!r}")
        parts = [
            (_vectors(value, subjects), self._near(run, name, subjects))
            for name, value in trained.items()
        ]
        return Loss(self.term, self._joined(parts)[step.batch.subject], weight=self.weight)

    def _joined(self, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the value [b] of vectors [b n d], each beside what is near: [b k d], or [b n d]."""
        total, count = torch.zeros(()), 0
        for vectors, near in parts:
            if self.to == "start":
                terms = self._terms(vectors - near)
            else:
                away = vectors[:, :, None] - near[:, None]  # [b n k d]
                closest = away.square().sum(-1).argmin(-1)
                terms = self._terms(
                    away.gather(2, closest[..., None, None].expand_as(away[:, :, :1]))
                )
            total = total.to(terms) + terms.flatten(1).sum(1)
            count += terms[0].numel()
        return total / count if self.reduce == "mean" else total

    def _terms(self, away: Tensor) -> Tensor:
        """Return what is brought together of differences [b ... d]."""
        if self.form == "norm":
            return away.float().norm(dim=-1)
        return away.float().abs() if self.form == "l1" else away.float().square()

    def _near(self, run: Run, name: str, subjects: int) -> Tensor:
        """Return what the vectors of a tensor are compared with: [S n d], or [S k d] of which one."""
        value = run.trained(name)[name]
        if self.to == "start":
            return _vectors(run.started(self.params)[name], subjects)
        if self.to == "zero":
            return value.new_zeros(subjects, 1, value.shape[-1])
        token = name.split("/")[-2]
        slots = [k for k, c in enumerate(run.features.concepts[0]) if c.token == token]
        slot = slots[0] if slots else 0
        nouns = [concepts[slot].noun for concepts in run.features.concepts]
        texts = [(noun,) if self.to == "noun" else self.texts for noun in nouns]
        rows = torch.stack([torch.stack([run.embed_words(t).mean(0) for t in of]) for of in texts])
        if rows.shape[-1] != value.shape[-1]:
            raise CapabilityError(
                f"{self.id}: {name} has vectors of {value.shape[-1]} elements, words {rows.shape[-1]}"
            )
        return rows.to(value)


def _vectors(value: Tensor, subjects: int) -> Tensor:
    """Return a trained tensor as vectors [S n d] of each subject."""
    return value.reshape(subjects, -1, value.shape[-1])
