"""Where a checkpoint lies between two baselines, and how sure a few pictures are of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """A checkpoint: both scores scaled so that 0 and 1 are the two baselines, and their quality.

    ``alignment`` 0 is a copy of the references and 1 the untuned backbone; ``fidelity`` the other way
    round. ``quality`` is their geometric mean: its highest point lies on the Pareto front. ``pictures``
    are both scores of every picture, scaled and not cut off: the same prompts and the same noise at
    every checkpoint.
    """

    alignment: float
    fidelity: float
    quality: float
    pictures: tuple[tuple[float, float], ...] = ()

    def lead(self, other: Point) -> tuple[float, float]:
        """Return by how much this quality is the higher one, and the standard error of that.

        The error is a jackknife over pictures, which both points have drawn from the same noise.
        """
        apart = self.quality - other.quality
        count = len(self.pictures)
        if count < 2:
            return apart, 0.0
        without = [
            quality([*self.pictures[:i], *self.pictures[i + 1 :]])
            - quality([*other.pictures[:i], *other.pictures[i + 1 :]])
            for i in range(count)
        ]
        middle = sum(without) / count
        spread = sum((value - middle) ** 2 for value in without)
        return apart, float((spread * (count - 1) / count) ** 0.5)


def scaled(value: float, low: float, high: float) -> float:
    """Return ``value`` so that ``low`` is 0 and ``high`` is 1; 0 where they are not in order."""
    return (value - low) / (high - low) if high > low else 0.0


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def means(pictures: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return mean alignment and fidelity, cut to [0, 1]."""
    alignment, fidelity = (min(1.0, max(0.0, mean(c))) for c in zip(*pictures, strict=True))
    return alignment, fidelity


def quality(pictures: Sequence[tuple[float, float]]) -> float:
    """Return the geometric mean of mean alignment and mean fidelity of pictures."""
    alignment, fidelity = means(pictures)
    return float((alignment * fidelity) ** 0.5)
