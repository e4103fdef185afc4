"""Claims about words of each step, and about latents that a reference lends to a drawing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pcs_checks.claims.general import with_tensors
from pcs_core import Technique, hookimpl
from pcs_core.data import SampleStep, Use
from pcs_core.data.check import CheckRow

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_checks.observe import Observation

_SEEN: list[list[tuple[Tensor, Tensor]]] = []
"""Of the drawing in force, the latents of each step in front of the recipe's techniques, and behind them."""


class Before(Technique):
    """Writes down the latents that a step comes with."""

    id = "checks.latents_before"

    @hookimpl(wrapper=True, tryfirst=True)
    def sample(self, step: SampleStep) -> Any:
        """Keep them."""
        _SEEN[-1].append((step.latents, step.latents))
        return (yield)


class Behind(Technique):
    """Writes down the latents that the network is asked about."""

    id = "checks.latents_behind"

    @hookimpl(wrapper=True, trylast=True)
    def sample(self, step: SampleStep) -> Any:
        """Keep them."""
        _SEEN[-1][-1] = (_SEEN[-1][-1][0], step.latents)
        return (yield)


def blends(seen: Observation, *, stop: float, trajectory: str, mask: str) -> Iterator[CheckRow]:
    """Before ``stop`` the latents in ``mask`` are the reference's of that level, and no other latents
    change.
    """
    recipe = seen.artifact.recipe
    uses = (Use(Before.id, Before()), *recipe.uses, Use(Behind.id, Behind()))
    _SEEN.append([])
    try:
        seen.draw(replace(seen.artifact, recipe=replace(recipe, uses=uses)))
        steps = _SEEN[-1]
    finally:
        _SEEN.pop()
    stored, where = seen.artifact.features.get(trajectory), seen.artifact.features.get(mask)
    yield CheckRow.compare(
        "features of the reference", int(stored is None) + int(where is None), "==", 0
    )
    if stored is None or where is None:
        return
    yield CheckRow.compare("places of its subject", float((where == 1).sum()), ">", 0)
    yield CheckRow.compare("places of none", float((where == 0).sum()), ">", 0)
    inside, outside, later, lent = 0.0, 0.0, 0.0, 0
    for index, (before, behind) in enumerate(steps):
        moved = (behind - before).abs()
        if index / len(steps) >= stop:
            later = max(later, float(moved.max()))
            continue
        lent += 1
        at = round((1 - index / len(steps)) * (len(stored) - 1))
        away = (behind - stored[at].to(behind)).abs()
        inside = max(inside, float((away * (where == 1)).max()))
        outside = max(outside, float((moved * (where == 0)).max()))
    yield CheckRow.compare("steps that begin with the reference", lent, ">", 0)
    yield CheckRow.compare("largest difference from the reference in its place", inside, "<=", 1e-5)
    yield CheckRow.compare("largest change outside of it", outside, "==", 0.0)
    yield CheckRow.compare("largest change in later steps", later, "==", 0.0)


def word_of_each_step(seen: Observation, *, use: str) -> Iterator[CheckRow]:
    """``use`` stores as many words as a drawing has steps, one for all layers; each changes the picture."""
    words = {n: t for n, t in seen.artifact.tensors.items() if n.startswith(f"{use}/")}
    steps = seen.recipe.sample.steps
    yield CheckRow.compare("stored tensors of the word", len(words), "==", 1)
    wrong = sum(tuple(t.shape[:2]) != (steps, 1) for t in words.values())
    yield CheckRow.compare(f"of these, not {steps} words", wrong, "==", 0)
    if wrong or len(words) != 1:
        return
    ((name, tensor),) = words.items()
    deaf = 0
    for step in range(steps):
        changed = tensor.clone()
        changed[step] += 0.5
        picture = seen.draw(with_tensors(seen.artifact, {**seen.artifact.tensors, name: changed}))
        deaf += bool(torch.equal(picture, seen.picture))
    yield CheckRow.compare("words that change no pixel", deaf, "==", 0)
