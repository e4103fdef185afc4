"""What a folder of a benchmark says: means, intervals, pairs, times; plain numbers, no layout."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from pcs_bench.report.statistics import Interval, holm, interval, pareto_front, sign_flip
from pcs_bench.run.documents import read_sets
from pcs_bench.run.plan import BASELINES
from pcs_bench.run.sources import read_fits
from pcs_bench.run.store import SETS, Store
from pcs_core.errors import InputError

FEW_SUBJECTS = 6
"""Below this many subjects the unit is a prompt of a subject: means then speak of these subjects only."""
ALIGNMENT = ("clip-t", "clip_t", "text", "align")
FIDELITY = ("clip-i", "clip_i", "dino", "identity", "effnet", "similarity")
COPYING = ("copy",)


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """A metric as the report names it. ``higher`` is whether more is better."""

    id: str
    title: str
    paper: str = ""
    higher: bool = True
    needs: str = ""
    per: str = "picture"
    model: str = ""
    preprocessing: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One system. ``scores`` by metric id; ``seconds`` and ``bytes`` are medians over its fits."""

    system: str
    name: str
    type: str
    framework: str
    backbone: str
    paper: str
    scores: Mapping[str, Interval]
    done: int
    failed: int
    seconds: float | None = None
    draw_seconds: float | None = None
    bytes: int | None = None
    bytes_of: str = ""
    parameters: int | None = None

    @property
    def baseline(self) -> bool:
        """Whether it personalises nothing."""
        return self.system in BASELINES


@dataclass(frozen=True, slots=True)
class Pair:
    """A paired difference of two systems, first minus second, with its adjusted p-value."""

    metric: str
    first: str
    second: str
    difference: float
    p: float
    adjusted: float
    units: int


@dataclass
class Results:
    """All of it. ``alignment``, ``fidelity``, ``copying`` are metric ids, or "" where there is none."""

    folder: Path
    protocol: dict[str, Any]
    metrics: list[MetricFacts]
    rows: list[Row]
    pairs: list[Pair]
    lines: list[dict[str, Any]]
    fits: dict[str, Mapping[str, Any]]
    unit: str
    alignment: str = ""
    fidelity: str = ""
    copying: str = ""
    front: list[str] = field(default_factory=list)
    errors: list[tuple[str, int]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    missing: int = 0

    def metric(self, id: str) -> MetricFacts:
        """Return the facts of a metric."""
        return next(m for m in self.metrics if m.id == id)

    def points(self) -> dict[str, tuple[float, float]]:
        """Return (alignment, fidelity) of each system that has both, more being better."""
        points = {}
        for row in self.rows:
            if self.alignment in row.scores and self.fidelity in row.scores:
                x, y = row.scores[self.alignment].mean, row.scores[self.fidelity].mean
                points[row.system] = (
                    x if self.metric(self.alignment).higher else -x,
                    y if self.metric(self.fidelity).higher else -y,
                )
        return points


def gather(folder: Path, *, alignment: str = "", fidelity: str = "") -> Results:
    """Read a benchmark's folder.

    Raises
    ------
    InputError
        It holds none, none of its cells is done yet, or no such metric.
    """
    store = Store(folder)
    protocol = store.protocol()
    known = store.cells()
    lines = [known[key] for key in protocol["cells"] if key in known]
    if not any(line["state"] == "done" for line in lines):
        why = next((line["error"] for line in lines if line.get("error")), "run it first")
        raise InputError(f"{folder}: no cell is done yet ({why})")
    metrics = [metric_facts(id) for id in protocol["metrics"]]
    subjects = len({line["subject"] for line in lines if line["state"] == "done"})
    unit = "subject" if subjects >= FEW_SUBJECTS else "prompt"
    fits = read_fits(store)
    sets = read_sets(store.folder / SETS)
    facts = _system_facts()
    rows = [_row(s, protocol, metrics, lines, fits, sets, unit, facts) for s in protocol["systems"]]
    results = Results(
        folder=store.folder,
        protocol=protocol,
        metrics=metrics,
        rows=rows,
        pairs=_pairs(protocol["systems"], metrics, lines, unit),
        lines=lines,
        fits=fits,
        unit=unit,
        missing=len(protocol["cells"]) - len(lines),
    )
    ids = [m.id for m in metrics if any(m.id in row.scores for row in rows)]
    for asked in (alignment, fidelity):
        if asked and asked not in ids:
            from pcs_core.errors import nearest

            raise InputError(f"no scores of a metric {asked!r}{nearest(asked, ids)}")
    results.alignment = alignment or _first(ids, ALIGNMENT)
    results.fidelity = fidelity or _first(ids, FIDELITY)
    results.copying = _first(ids, COPYING)
    results.front = pareto_front({s: p for s, p in results.points().items() if s not in BASELINES})
    counts: dict[str, int] = defaultdict(int)
    for line in lines:
        for why in [line.get("error", ""), *line.get("errors", {}).values()]:
            counts[why] += bool(why)
    for row in sets:
        counts[row.get("error", "")] += bool(row.get("error"))
    results.errors = sorted(((w, n) for w, n in counts.items() if n), key=lambda e: -e[1])
    results.damaged = [
        line["key"]
        for line in lines
        if line["state"] == "done" and store.read_picture(line["hash"], line["sha256"]) is None
    ]
    return results


def metric_facts(id: str) -> MetricFacts:
    """Return a metric's facts, or its id alone where it does not open here."""
    from pcs_bench import metrics

    try:
        metric = metrics.get(id)
    except Exception:  # whatever keeps it from opening was a row of the run
        return MetricFacts(id, id)
    better = str(getattr(metric, "better", "higher")).lower()
    needs = getattr(metric, "needs", ()) or ()
    return MetricFacts(
        id,
        str(getattr(metric, "title", id)),
        str(getattr(metric, "paper", "") or ""),
        better not in ("lower", "less", "low"),
        needs if isinstance(needs, str) else ", ".join(map(str, needs)),
        str(getattr(metric, "per", "picture")),
        str(getattr(metric, "model", "")),
        str(getattr(metric, "preprocessing", "")),
        str(getattr(metric, "licence", "")),
    )


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the rank correlation in [-1, 1], None of fewer than three pairs or without spread."""
    if len(x) < 3:
        return None
    a, b = _ranks(x), _ranks(y)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    return np.array([(numbers < v).sum() + ((numbers == v).sum() - 1) / 2 for v in numbers])


def _first(ids: Sequence[str], words: Sequence[str]) -> str:
    return next((id for word in words for id in ids if word in id.lower()), "")


def _system_facts() -> Mapping[str, Mapping[str, Any]]:
    """Return what the installed plugins say of each system: the ``[recipe]`` table of its file."""
    from pcs_core import installed

    return {id: head.table for id, head in installed().heads().items()}


def _values(
    lines: Sequence[Mapping[str, Any]], system: str, metric: str, unit: str
) -> dict[tuple[Any, ...], list[float]]:
    by_unit: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for line in lines:
        value = line.get("scores", {}).get(metric) if line["system"] == system else None
        if value is not None and math.isfinite(value):
            key = (line["subject"],) if unit == "subject" else (line["subject"], line["index"])
            by_unit[key].append(value)
    return by_unit


def _row(
    system: str,
    protocol: Mapping[str, Any],
    metrics: Sequence[MetricFacts],
    lines: Sequence[Mapping[str, Any]],
    fits: Mapping[str, Mapping[str, Any]],
    sets: Sequence[Mapping[str, Any]],
    unit: str,
    facts: Mapping[str, Mapping[str, Any]],
) -> Row:
    system_lines = [line for line in lines if line["system"] == system]
    done = [line for line in system_lines if line["state"] == "done"]
    scores = {}
    for metric in metrics:
        estimate = interval(_values(system_lines, system, metric.id, unit).values())
        if estimate is None:
            set_values = [
                [r["value"]]
                for r in sets
                if (r["metric"], r["system"]) == (metric.id, system) and r.get("value") is not None
            ]
            estimate = interval(set_values)
        if estimate is not None:
            scores[metric.id] = estimate
    keys = dict.fromkeys(line["fit"] for line in done if line.get("fit"))
    ran = [fits[key] for key in keys if key in fits]
    timed = [f["seconds"] for f in ran if not f.get("resumed")]
    peaks = [f["peak_bytes"] for f in ran if f.get("peak_bytes")]
    drawn = [line["seconds"] for line in done if line.get("seconds") is not None]
    fact = facts.get(system, {})
    return Row(
        system=system,
        name=fact.get("name") or system,
        type=_type(fact, protocol) if system not in BASELINES else "Baseline",
        framework=fact.get("framework", ""),
        backbone=protocol["backbone"],
        paper=fact.get("paper", ""),
        scores=scores,
        done=len(done),
        failed=len(system_lines) - len(done),
        seconds=float(np.median(timed)) if timed else None,
        draw_seconds=float(np.median(drawn)) if drawn and system != "copy" else None,
        bytes=int(np.median(peaks)) if peaks else None,
        bytes_of=next((f["peak_of"] for f in ran if f.get("peak_of")), ""),
        parameters=int(np.median([f["parameters"] for f in ran])) if ran else None,
    )


def _type(fact: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
    scope = (fact.get("scope") or (protocol.get("suite_kind", ""),))[0]
    return str(scope).replace("-", " ").capitalize()


def _pairs(
    systems: Sequence[str],
    metrics: Sequence[MetricFacts],
    lines: Sequence[Mapping[str, Any]],
    unit: str,
) -> list[Pair]:
    pairs = []
    for metric in metrics:
        means = {
            s: {k: float(np.mean(v)) for k, v in _values(lines, s, metric.id, unit).items()}
            for s in systems
        }
        rows = []
        for first, second in combinations(systems, 2):
            shared = [k for k in means[first] if k in means[second]]
            if shared:
                differences = [means[first][k] - means[second][k] for k in shared]
                rows.append(
                    (
                        first,
                        second,
                        float(np.mean(differences)),
                        sign_flip(differences),
                        len(shared),
                    )
                )
        adjusted = holm([row[3] for row in rows])
        pairs += [
            Pair(metric.id, a, b, mean, p, corrected, count)
            for (a, b, mean, p, count), corrected in zip(rows, adjusted, strict=True)
        ]
    return pairs
