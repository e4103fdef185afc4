"""The survey's two claims on the numbers of a run, with how sure they make one, whichever way they fall.

No system leads in both fidelity and alignment; higher similarity can be copying (arXiv:2405.05538,
sections 7.4 and 8.1).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pcs_bench.report.results import Results, spearman
from pcs_bench.report.statistics import DRAWS
from pcs_bench.run.plan import BASELINES, COPY

LEADERS = "No system leads in both fidelity and alignment"
COPYING = "Higher similarity can be copying"
SURE = 0.95
"""Share of bootstrap samples that an answer needs to be called sure."""
Claim = dict[str, Any]
Unit = tuple[Any, ...]


def claims(results: Results) -> list[Claim]:
    """Return a text, verdict, answer and numbers for each claim.

    ``verdict`` is "holds", "does not hold", "undecided" (the samples disagree) or "not tested".
    """
    points = {s: p for s, p in results.points().items() if s not in BASELINES}
    if len(points) < 2:
        why = "Not tested: it takes two systems with scores of both."
        return [_claim(text, "not tested", why) for text in (LEADERS, COPYING)]
    return [_leaders(results, points), _copying(results, points)]


def _claim(text: str, verdict: str, answer: str, **numbers: Any) -> Claim:
    return {"text": text, "verdict": verdict, "answer": answer, "numbers": numbers}


def _leaders(results: Results, points: Mapping[str, tuple[float, float]]) -> Claim:
    ids = (results.alignment, results.fidelity)
    names = [results.metric(id).title for id in ids]
    lead = [_leader(points, axis) for axis in (0, 1)]
    share, units = _share_without_leader(results, list(points), ids)
    verdict = "holds" if lead[0] != lead[1] else "does not hold"
    if share is not None and max(share, 1 - share) < SURE:
        verdict = "undecided"
    begin = {"holds": "It holds here", "does not hold": "It does not hold here"}
    answer = begin.get(verdict, "Undecided here. By their means")
    if lead[0] == lead[1]:
        answer += f": {lead[0]} leads in both {names[0]} and {names[1]}."
    else:
        answer += f": {lead[0]} leads in {names[0]}, {lead[1]} in {names[1]}."
        for id in ids:
            for pair in results.pairs:
                if pair.metric == id and {pair.first, pair.second} == set(lead):
                    answer += (
                        f" Difference in {results.metric(id).title}: {abs(pair.difference):.3f}, "
                        f"p {p_words(pair.adjusted)}."
                    )
    if share is not None:
        answer += (
            f" In {share:.0%} of {DRAWS} bootstrap samples over {_units(results, units)} no system "
            f"leads in both."
        )
    if verdict == "undecided":
        answer += f" That is less than {SURE:.0%} either way: more subjects are needed."
    front = results.front
    answer += f" On the Pareto front: {', '.join(front)} ({len(front)} of {len(points)} systems)."
    return _claim(
        LEADERS, verdict, answer, leaders=lead, no_leader_in_both=share, units=units, front=front
    )


def _share_without_leader(
    results: Results, systems: Sequence[str], ids: Sequence[str]
) -> tuple[float | None, int]:
    """Return in what share of bootstrap samples no system leads in both, and the number of units."""
    tables = []
    for id in ids:
        means = {s: _by_unit(results, s, id) for s in systems}
        tables.append(means)
    shared = set.intersection(*(set(means[s]) for means in tables for s in systems))
    if len(shared) < 2:
        return None, len(shared)
    order = sorted(shared)
    signs = [1 if results.metric(id).higher else -1 for id in ids]
    grids = [
        sign * np.array([[means[s][u] for u in order] for s in systems])
        for sign, means in zip(signs, tables, strict=True)
    ]
    picks = np.random.default_rng(0).integers(len(order), size=(DRAWS, len(order)))
    leads = [grid[:, picks].mean(2).argmax(0) for grid in grids]
    return float((leads[0] != leads[1]).mean()), len(order)


def _by_unit(results: Results, system: str, id: str) -> dict[Unit, float]:
    by_unit: dict[Unit, list[float]] = defaultdict(list)
    for line in results.lines:
        value = line.get("scores", {}).get(id) if line["system"] == system else None
        if value is not None:
            by_unit[_unit(line, results.unit)].append(value)
    return {unit: float(np.mean(values)) for unit, values in by_unit.items()}


def _unit(line: Mapping[str, Any], unit: str) -> Unit:
    return (line["subject"],) if unit == "subject" else (line["subject"], line["index"])


def _units(results: Results, count: int) -> str:
    return f"{count} subjects" if results.unit == "subject" else f"{count} prompts of subjects"


def _copying(results: Results, points: Mapping[str, tuple[float, float]]) -> Claim:
    notes: list[str] = []
    numbers: dict[str, Any] = {}
    everything, name = results.points(), results.metric(results.fidelity).title
    verdict = "not tested"
    if COPY in everything:
        above = sum(everything[COPY][1] > y for _, y in points.values())
        across = results.metric(results.alignment).title
        notes.append(
            f"Repeating the references scores {everything[COPY][1]:.3f} in {name}, above {above} of "
            f"{len(points)} systems, and {everything[COPY][0]:.3f} in {across}."
        )
        numbers["systems_below_copies"] = above
    if results.copying:
        title = results.metric(results.copying).title
        means = {r.system: r.scores for r in results.rows if r.system in points}
        have = [s for s in means if results.copying in means[s]]
        rank = spearman(
            [points[s][1] for s in have], [means[s][results.copying].mean for s in have]
        )
        if rank is not None:
            notes.append(f"Rank correlation of {name} and {title} over systems: {rank:.2f}.")
        inner, low, high, count = _correlation(results, set(points))
        if inner is not None:
            notes.append(
                f"Over {count} pictures, within system and subject: {inner:.2f}"
                + ("." if low is None else f" (95% interval {low:.2f} to {high:.2f}).")
            )
        if low is not None and high is not None:
            verdict = "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
        halves = _halves(results, set(points))
        if halves is not None:
            notes.append(
                f"{title} of the quarter of pictures with the highest {name}: {halves[1]:.3f}, of the "
                f"lowest quarter: {halves[0]:.3f}."
            )
        numbers |= {"over_systems": rank, "within": inner, "low": low, "high": high}
        numbers |= {"pictures": count, "copying_of_quarters": halves}
    answer = {
        "holds": "It holds here: pictures that score more also copy more.",
        "does not hold": "It does not hold here: pictures that score more copy less.",
        "undecided": "Undecided here: the interval of the correlation holds zero.",
        "not tested": "" if notes else "Not tested: no copy row or score.",
    }[verdict]
    return _claim(COPYING, verdict, " ".join([answer, *notes]).strip(), **numbers)


def _leader(points: Mapping[str, tuple[float, float]], axis: int) -> str:
    """Return the system that is best in alignment (axis 0) or fidelity (1)."""
    return max(points, key=lambda system: points[system][axis])


def _scored(results: Results, systems: set[str]) -> list[tuple[Mapping[str, Any], float, float]]:
    rows: list[tuple[Mapping[str, Any], float, float]] = []
    sign = 1 if results.metric(results.fidelity).higher else -1
    for line in results.lines:
        scores = line.get("scores", {})
        pair = scores.get(results.fidelity), scores.get(results.copying)
        if line["system"] in systems and pair[0] is not None and pair[1] is not None:
            rows.append((line, sign * pair[0], pair[1]))
    return rows


def _correlation(
    results: Results, systems: set[str]
) -> tuple[float | None, float | None, float | None, int]:
    """Return the correlation of ranks within system and subject, its interval, and the pictures.

    Ranks are taken among pictures of one system and subject, so that neither an easy subject nor a
    strong system makes it; whole subjects (few: prompts of subjects) are drawn for the interval.
    """
    groups: dict[tuple[str, str], list[tuple[Unit, float, float]]] = defaultdict(list)
    for line, fidelity, copying in _scored(results, systems):
        unit = _unit(line, results.unit)
        groups[line["system"], line["subject"]].append((unit, fidelity, copying))
    rows: dict[Unit, list[tuple[float, float]]] = defaultdict(list)
    for group in groups.values():
        x = _centred([fidelity for _, fidelity, _ in group])
        y = _centred([copying for _, _, copying in group])
        for (unit, *_), a, b in zip(group, x, y, strict=True):
            rows[unit].append((a, b))
    count = sum(map(len, rows.values()))
    sums = np.array(
        [
            [sum(a * b for a, b in r), sum(a * a for a, _ in r), sum(b * b for _, b in r)]
            for r in rows.values()
        ]
    ).reshape(-1, 3)
    whole = _cosine(sums.sum(0)[None])[0] if len(sums) else np.nan
    if count < 3 or not np.isfinite(whole):
        return None, None, None, count
    if len(sums) < 2:
        return float(whole), None, None, count
    picks = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    drawn = _cosine(sums[picks].sum(1))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(whole), float(low), float(high), count


def _centred(values: Sequence[float]) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    ranks = np.array([(numbers < v).sum() + ((numbers == v).sum() - 1) / 2 for v in numbers])
    return (ranks - ranks.mean()) / max(len(ranks), 1)


def _cosine(sums: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[:, 0] / np.sqrt(sums[:, 1] * sums[:, 2])


def _halves(results: Results, systems: set[str]) -> tuple[float, float] | None:
    """Return the mean copy score of the lowest and the highest quarter by fidelity."""
    rows = sorted(_scored(results, systems), key=lambda row: row[1])
    if len(rows) < 8:
        return None
    part = len(rows) // 4
    return (
        float(np.mean([copying for *_, copying in rows[:part]])),
        float(np.mean([copying for *_, copying in rows[-part:]])),
    )


def p_words(p: float) -> str:
    """Return a p-value as it is printed."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
