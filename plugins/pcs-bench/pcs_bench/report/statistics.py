"""Intervals, paired tests and fronts: what may be said of means over few subjects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 4000
"""Bootstrap samples."""
FLIPS = 20_000
"""Flips of signs where not all can be gone through: enough to stay small after many adjustments."""
EXACT = 14
"""Up to this many units every flip of signs is tried."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over units (subjects, or prompts of one subject) and its bootstrap interval.

    ``low`` and ``high`` are None where there is but one unit; ``values`` counts the pictures.
    """

    mean: float
    low: float | None
    high: float | None
    units: int
    values: int


def interval(
    groups: Iterable[Sequence[float]], *, level: float = 0.95, seed: int = 0
) -> Interval | None:
    """Return the mean of the units' means with its percentile bootstrap interval, None of nothing.

    Whole units are drawn with replacement (cluster bootstrap; Efron and Tibshirani, 1993, chapter
    13): pictures of one subject are alike, and count as one observation.
    """
    filled = [list(group) for group in groups if len(group)]
    if not filled:
        return None
    means = np.array([np.mean(group) for group in filled])
    count = sum(len(group) for group in filled)
    if len(means) == 1:
        return Interval(float(means[0]), None, None, 1, count)
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(means), size=(DRAWS, len(means)))
    low, high = np.quantile(means[picks].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(means.mean()), float(low), float(high), len(means), count)


def sign_flip(differences: Sequence[float], *, seed: int = 0) -> float:
    """Return the two-sided p-value of a mean of paired differences, by flipping their signs.

    Exact up to 14 pairs (Fisher's randomisation test); sampled beyond, with the observed flip counted
    (Phipson and Smyth, 2010). No pair gives 1.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values):
        return 1.0
    observed = abs(values.mean())
    slack = 1e-12 * max(1.0, float(np.abs(values).max()))
    if len(values) <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
        return float((np.abs(signs @ values / len(values)) >= observed - slack).mean())
    rng = np.random.default_rng(seed)
    signs = rng.choice((1.0, -1.0), size=(FLIPS, len(values)))
    hits = int((np.abs(signs @ values / len(values)) >= observed - slack).sum())
    return (hits + 1) / (FLIPS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number (Holm, 1979), in the given order."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names of the points that no other beats, in order of the first number.

    More is better in both; a point is beaten by one as good in both and better in one.
    """

    def beaten(name: str) -> bool:
        x, y = points[name]
        return any(
            a >= x and b >= y and (a > x or b > y)
            for other, (a, b) in points.items()
            if other != name
        )

    return sorted((n for n in points if not beaten(n)), key=lambda n: points[n])
