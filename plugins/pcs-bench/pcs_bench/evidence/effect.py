"""The effect of a system: the paired difference of a metric against the untuned base, over subjects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pcs_bench.report.statistics import interval
from pcs_bench.run.plan import UNTUNED
from pcs_core.errors import InputError

LEAST = {"mini.in-box": 0.1}
"""The least mean difference that counts as doing the job, by metric, in its own unit."""
COSINE = 0.05
"""That of metrics that are cosines: about what one fit moves by with another seed, so that less cannot be
told from chance."""


def paired(lines: Iterable[Mapping[str, Any]], system: str, metric: str) -> dict[str, list[float]]:
    """Return subject -> differences of ``metric``, ``system`` minus the untuned base.

    A pair is two pictures of one subject, prompt and seed, drawn from the same noise. ``lines`` are
    those of a benchmark, each with "system", "subject", "index", "seed" and "scores".

    Raises
    ------
    InputError
        A picture of the system has no partner.
    """
    of: dict[str, dict[tuple[Any, ...], float]] = {system: {}, UNTUNED: {}}
    for line in lines:
        value = line.get("scores", {}).get(metric)
        if line["system"] in of and line["state"] == "done" and value is not None:
            of[line["system"]][line["subject"], line["index"], line["seed"]] = float(value)
    differences: dict[str, list[float]] = defaultdict(list)
    for key, value in of[system].items():
        if key not in of[UNTUNED]:
            raise InputError(
                f"{system}: {key[0]}, prompt {key[1]}, seed {key[2]} was not drawn by the untuned "
                f"base: run it with --systems {UNTUNED},{system}"
            )
        differences[key[0]].append(value - of[UNTUNED][key])
    return dict(differences)


def effect(differences: Mapping[str, list[float]], metric: str) -> dict[str, Any] | None:
    """Return the effect as evidence holds it (`pcs_evidence.evidence.Effect`), None of nothing."""
    over_subjects = interval(differences.values())
    if over_subjects is None:
        return None
    return {
        "metric": metric,
        "mean": round(over_subjects.mean, 4),
        "low": None if over_subjects.low is None else round(over_subjects.low, 4),
        "high": None if over_subjects.high is None else round(over_subjects.high, 4),
        "minimum": LEAST.get(metric, COSINE),
        "subjects": over_subjects.units,
        "pictures": over_subjects.values,
    }
