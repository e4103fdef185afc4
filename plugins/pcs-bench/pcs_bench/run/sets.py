"""Scores of pictures together: one number for all pictures of a system, or for one subject's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pcs_bench.run.keys import digest
from pcs_bench.run.plan import Cell, Job
from pcs_bench.run.scoring import one_line
from pcs_bench.run.texts import plain
from pcs_bench.run.work import untuned
from pcs_bench.run.workplace import Workplace
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

SUITE = "suite"
"""``per`` of a metric that scores all pictures of a system at once; any other is per subject."""


def score_sets(
    place: Workplace, of: Mapping[Job, Sequence[Cell]], lines: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a row per metric of sets, system and subject ("" for all): a score or an error.

    What was scored before of the same pictures is taken from ``sets.json``.
    """
    ids = place.metrics.of_sets()
    if not ids:
        return []
    before = {(r["metric"], r["pictures"]): r for r in _earlier(place)}
    rows = []
    for id in ids:
        for system, names in _groups(of, whole=place.metrics.per(id) == SUITE):
            done = [
                cell
                for name in names
                for cell in of[Job(system, name)]
                if lines.get(cell.key, {}).get("state") == "done"
            ]
            row: dict[str, Any] = {
                "metric": id,
                "system": system,
                "subject": names[0] if place.metrics.per(id) != SUITE else "",
                "count": len(done),
                "pictures": digest(hashes=[lines[c.key]["sha256"] for c in done]),
            }
            old = before.get((id, row["pictures"]))
            if old is not None and old.get("value") is not None:
                rows.append({**row, "value": old["value"]})
            elif done:
                rows.append({**row, **_score(place, id, done, lines)})
    return rows


def _earlier(place: Workplace) -> list[dict[str, Any]]:
    from pcs_bench.run.documents import read_sets
    from pcs_bench.run.store import SETS

    return read_sets(place.store.folder / SETS)


def _groups(of: Mapping[Job, Sequence[Cell]], *, whole: bool) -> list[tuple[str, list[str]]]:
    systems = dict.fromkeys(job.system for job in of)
    if whole:
        return [(s, [j.subject for j in of if j.system == s]) for s in systems]
    return [(job.system, [job.subject]) for job in of]


def _score(
    place: Workplace, id: str, done: Sequence[Cell], lines: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    import torch

    try:
        metric = place.metrics.open(id)
        pictures, prompts, plains = [], [], []
        for cell in done:
            picture = place.store.read_picture(lines[cell.key]["hash"], lines[cell.key]["sha256"])
            if picture is None:
                raise InputError(f"the picture of {cell.key} is damaged: run again")
            pictures.append(picture)
            prompts.append(plain(cell.text, place.subject(cell.subject).concepts))
        names = list(dict.fromkeys(cell.subject for cell in done))
        if place.metrics.needs(id, "untuned"):
            plains = [
                untuned(place, name, [c for c in done if c.subject == name]) for name in names
            ]
        masks: list[Tensor | None] = [place.masks(name) for name in names]
        with torch.no_grad():
            values = metric.score(
                torch.stack(pictures),
                prompts=prompts,
                references=torch.cat([place.references(name) for name in names]),
                masks=(
                    torch.cat([m for m in masks if m is not None])
                    if place.metrics.needs(id, "masks") and all(m is not None for m in masks)
                    else None
                ),
                untuned=torch.cat(plains) if plains else None,
            )
        value = float(torch.as_tensor(values).float().mean())
        return {"value": value if math.isfinite(value) else None}
    except Exception as error:
        return {"value": None, "error": one_line(error)}
