"""Learned words keep a norm, or stay among words that are known, behind every step.

The norm in front of a step is CoRe's (arXiv:2408.15914, and its `train.py`), that of the class word
MultiBooth's (arXiv:2404.14239); the principal directions of names are Celeb Basis's (arXiv:2306.00926).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Constraint, Fusion
from pcs_core.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pcs_core.data import Features, Run

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Projection(Technique):
    """Bring trained rows back to a norm or into a span after each step of the optimizer.

    What is stored are the rows as they are then, so that every reader of them sees the same. A moving
    average of a phase (``ema``) is that of rows that keep to it, and need not.
    """

    id = "regularizers.projection"
    catalogue = ("embedding-constraint",)
    neutral = {"window": [0.0, 0.0]}
    tiny_beside = {"tokens.learnable": {}}
    tiny_unseen = "it moves rows between two steps of a fit, and without a step there are none"

    params: str = "*/rows"
    """Glob over what trains, "<use>/<token>/<parameter>"; vectors are along the last axis."""
    onto: Literal["noun_norm", "last_norm", "span"] = "noun_norm"
    """Each vector's norm becomes that of the noun's mean row, or stays what it was in front of the step; or the
    vector becomes the nearest one in the span of the rows of ``texts``."""
    texts: tuple[str, ...] = ()
    """Words that span, where ``onto`` is "span"."""
    components: Annotated[int, Field(ge=0)] = 0
    """Principal directions of the rows that span, around their mean; 0: all that the rows themselves span."""
    window: tuple[Share, Share] = (0.0, 1.0)
    """Part of a phase's steps in which it acts, from a share to another."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Hand the engine what a step is followed by."""
        if self.onto == "span":
            if not self.texts:
                raise RecipeError(f'{self.id}: `onto` is "span", and `texts` names no words')
            rows = torch.cat([run.embed_words(text) for text in self.texts]).double()
            mean = rows.mean(0) if self.components else torch.zeros_like(rows[0])
            basis = _directions(rows - mean, self.components)
            return self._after(partial(_into_span, mean=mean, basis=basis))
        if self.onto == "last_norm":
            return self._after(_to_norm)
        norms = {
            concept.token: torch.stack(
                [run.embed_words(of[k].noun).mean(0).norm() for of in features.concepts]
            )
            for k, concept in enumerate(features.concepts[0])
        }
        return self._after(partial(_to_nouns_norm, norms=norms))

    def _after(self, project: Callable[[str, Tensor, Tensor], Tensor]) -> Fusion:
        first, last = self.window

        def within(name: str, before: Tensor, after: Tensor, progress: float) -> Tensor:
            return project(name, before, after) if first <= progress < last else after

        return Fusion(constraints=(Constraint(self.params, within),))


def _directions(rows: Tensor, count: int) -> Tensor:
    """Return orthonormal directions [k d] of ``rows`` [n d]: the ``count`` largest, or all there are."""
    _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
    there = int((sizes > sizes[0] * 1e-6).sum())
    return directions[: min(count, there) if count else there]


def _into_span(name: str, before: Tensor, after: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    mean, basis = mean.to(after.device), basis.to(after.device)
    return (mean + (after.double() - mean) @ basis.T @ basis).to(after)


def _to_norm(name: str, before: Tensor, after: Tensor) -> Tensor:
    norm = after.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return after * (before.norm(dim=-1, keepdim=True) / norm)


def _to_nouns_norm(name: str, before: Tensor, after: Tensor, norms: dict[str, Tensor]) -> Tensor:
    token = name.split("/")[-2]
    nouns = norms.get(token, next(iter(norms.values()))).to(after)
    norm = after.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return after * (nouns.view(-1, *[1] * (after.dim() - 1)) / norm)
