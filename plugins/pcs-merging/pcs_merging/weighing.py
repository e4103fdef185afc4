"""Personalizations as they act at a strength: their tensors weighed once, as a drawing would each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pcs_core.backbone import suspended
from pcs_core.errors import InputError
from pcs_engine.given import LARGE, check_number
from pcs_engine.restoring import run_of
from pcs_engine.strengths import (
    number_names,
    part_strengths,
    strength_names,
    weighed_tensors,
)

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization

Weights = Sequence[Mapping[str, float]]
"""Of each personalization: name of a use -> its strength."""


def read_weights(
    given: Mapping[str, float], artifacts: Sequence[Personalization], labels: Sequence[str]
) -> Weights:
    """Return the strengths of uses: by "cat:lora", "cat" for all of that artifact, "lora" of the first.

    Raises
    ------
    InputError
        No finite number, a name that nothing has, two strengths of one use, or one of what is not stored.
    """
    every = tuple(
        replace(use, name=f"{label}:{use.name}")
        for label, artifact in zip(labels, artifacts, strict=True)
        for use in artifact.recipe.uses
    )
    first = artifacts[0].recipe.uses
    alone = {*strength_names(first), *number_names(first)}
    named = {}
    for name, value in given.items():
        check_number(f"strength {name}", value, -LARGE, LARGE)
        whole = name in labels or name not in alone
        named[name if whole else f"{labels[0]}:{name}"] = value
    weights, numbers = part_strengths(named, every)
    if numbers:
        raise InputError(
            f"strength {next(iter(numbers))!r} is a number of a drawing, which nothing stored can hold: give "
            "it to `pcs sample`"
        )
    read: list[dict[str, float]] = []
    for label, artifact in zip(labels, artifacts, strict=True):
        by_use = {
            name.removeprefix(f"{label}:"): value
            for name, value in weights.items()
            if name.startswith(f"{label}:")
        }
        stored = {name.partition("/")[0] for name in artifact.tensors}
        for use in by_use.keys() - stored:
            raise InputError(
                f"strength of {use!r} of {label!r}: the artifact holds no tensors of it that could be weighed "
                "(its pre-trained weights are shared)"
            )
        read.append(by_use)
    return read


def weighed(
    artifact: Personalization, backbone: Backbone, weights: Mapping[str, float]
) -> Personalization:
    """Return ``artifact`` with tensors that act at 1 as its own do at ``weights``."""
    if all(value == 1 for value in weights.values()):
        return artifact
    with suspended(backbone):
        run = run_of(artifact, backbone, 0)
        tensors = weighed_tensors(artifact, artifact.tensors, weights, run)
    return replace(artifact, tensors=tensors)
