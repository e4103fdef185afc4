"""The quality gate of a preset: what it may lose against the plain drawing, with a bound and not a mean.

The plain pictures and the preset's start from the same noise, so each loss is a difference of a pair. It must
hold on the lower end of a bootstrap interval, which a few lucky pictures do not move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pcs_core.errors import InputError

DRAWS = 4000
"""Bootstrap samples."""
LEVEL = 0.95
"""One-sided confidence of the lower end."""
FEWEST = 10
"""Pairs below which a bootstrap says nothing."""
BOUNDS: Mapping[str, str] = {
    "identity": "largest loss of similarity with the references",
    "alignment": "largest loss of text alignment",
    "psnr": "smallest likeness to the plain picture, dB",
    "cost": "largest part of the plain drawing's FLOPs",
}
"""What a preset's ``[gate]`` may name. It must name identity and cost."""


@dataclass(frozen=True, slots=True)
class Score:
    """One quantity over all pairs: its mean, the lower end of it, and the ``limit`` it must reach."""

    mean: float
    low: float
    limit: float | None

    @property
    def holds(self) -> bool:
        """Whether the lower end reaches the limit. What is not finite never does."""
        return math.isfinite(self.low) and (self.limit is None or self.low >= self.limit)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says: ``passed``, why not, and the numbers. ``cost`` is preset over plain in FLOPs."""

    passed: bool
    reasons: tuple[str, ...]
    scores: Mapping[str, Score]
    cost: float
    units: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The numbers in one line."""
        said = [
            f"{name} {s.mean:+.3f} (at least {s.low:+.3f})"
            if name != "psnr"
            else f"psnr {s.mean:.1f} dB (at least {s.low:.1f})"
            for name, s in self.scores.items()
        ]
        why = f"; {'; '.join(self.reasons)}" if self.reasons else ""
        return f"{', '.join(said)}, {self.cost:.2f} of the work, {self.units} pairs{why}"

    def plain(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "passed": self.passed,
            "summary": self.summary,
            "reasons": list(self.reasons),
            "scores": {
                name: {"mean": s.mean, "low": s.low, "limit": s.limit}
                for name, s in self.scores.items()
            },
            "cost": self.cost,
            "pairs": self.units,
            **self.facts,
        }


def check_bounds(bounds: Mapping[str, float], name: str) -> None:
    """Refuse a ``[gate]`` that says too little or something unknown.

    Raises
    ------
    InputError
        It names no identity or cost, an unknown bound, or one out of range.
    """
    for key in bounds:
        if key not in BOUNDS:
            raise InputError(f"preset {name!r}: [gate] knows {', '.join(BOUNDS)}, not {key!r}")
    for key in ("identity", "cost"):
        if key not in bounds:
            raise InputError(f"preset {name!r}: [gate] needs {key}: the {BOUNDS[key]}")
    for key, value in bounds.items():
        if not math.isfinite(value) or value < 0 or (key == "cost" and value > 1):
            raise InputError(f"preset {name!r}: [gate] {key} = {value:g} is out of range")


def judge(
    bounds: Mapping[str, float],
    losses: Mapping[str, Sequence[float]],
    cost: float,
    *,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
) -> Verdict:
    """Return the verdict on ``losses``: by name a value per unit, preset minus plain (psnr: the value).

    A unit is one prompt of one artifact, the mean of its pictures: pictures of one prompt are alike, and
    count as one observation.

    Raises
    ------
    InputError
        There are fewer than ten units.
    """
    units = min(len(values) for values in losses.values())
    if units < FEWEST:
        raise InputError(
            f"{units} pairs of artifact and prompt are too few for a bound: give more artifacts or "
            f"more --prompts, {FEWEST} together"
        )
    scores, reasons = {}, []
    for name, values in losses.items():
        limit = None if name not in bounds else bounds[name] * (1 if name == "psnr" else -1)
        score = scores[name] = Score(float(np.mean(values)), lower_end(values, seed=seed), limit)
        if not score.holds:
            want = "a finite number" if limit is None else f"{limit:g}"
            reasons.append(f"{name} may be as low as {score.low:.3f}, and must be at least {want}")
    if cost > bounds["cost"]:
        reasons.append(f"it costs {cost:.2f} of the plain drawing, and may cost {bounds['cost']:g}")
    return Verdict(not reasons, tuple(reasons), scores, cost, units, facts or {})


def lower_end(values: Sequence[float], *, seed: int = 0, level: float = LEVEL) -> float:
    """Return the lower end of the mean (percentile bootstrap; Efron and Tibshirani, 1993, chapter 13)."""
    observed = np.asarray(values, dtype=float)
    if not np.isfinite(observed).all():
        return float("nan")
    picks = np.random.default_rng(seed).integers(len(observed), size=(DRAWS, len(observed)))
    return float(np.quantile(observed[picks].mean(1), 1 - level))


def psnr(pictures: Any, plain: Any) -> Any:
    """Return the likeness [n] of pictures [n ...] in [0, 1] to the plain ones, dB; 60 at most."""
    error = (pictures.float() - plain.float()).square().flatten(1).mean(1)
    return -10.0 * error.clamp_min(1e-6).log10()
