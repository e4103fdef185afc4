"""One job: fit a system on a subject once, draw its cells, score them. Each failure is a row."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pcs_bench.run.plan import UNTUNED, Cell, Job, cells, chunks
from pcs_bench.run.scoring import complete, one_line
from pcs_bench.run.sources import Source, open_source
from pcs_bench.run.store import file_hash
from pcs_bench.run.texts import plain
from pcs_bench.run.workplace import Workplace
from pcs_core.errors import InputError, PcsError

if TYPE_CHECKING:
    from torch import Tensor

Line = Mapping[str, Any]
"""A line of ``cells.jsonl``, or ``{"key": ..., "kept": True}`` for one that stands."""


def run_job(place: Workplace, job: Job, known: Mapping[str, Line]) -> Iterator[Line]:
    """Do what is missing of a job and give each line; ``known`` are the lines so far.

    A cell that fails is a line too.
    """
    job_cells = cells(place.protocol, place.suite, job)
    try:
        source = open_source(place, job)
    except Exception as error:
        for cell in job_cells:
            yield failed(cell, one_line(error))
        return
    ids = place.metrics.of_pictures()
    left: list[Cell] = []
    for cell in job_cells:
        line = known.get(cell.key, {})
        stands = line.get("hash") == source.key(cell) and line.get("state") == "done"
        if (
            stands
            and complete(line, ids)
            and place.store.read_picture(line["hash"], line["sha256"]) is not None
        ):
            yield {"key": cell.key, "kept": True}
        else:
            left.append(cell)
    for chunk in chunks(job_cells):
        missing = [cell for cell in chunk if cell in left]
        if missing:
            yield from _chunk(place, source, chunk, missing, known, ids)


def _chunk(
    place: Workplace,
    source: Source,
    chunk: Sequence[Cell],
    missing: Sequence[Cell],
    known: Mapping[str, Line],
    ids: Sequence[str],
) -> Iterator[Line]:
    import torch

    name = source.job.subject
    try:
        references, masks = place.references(name), place.masks(name)
        seconds, broken = draw_chunk(place, source, chunk, missing, known)
    except Exception as error:
        for cell in missing:
            yield failed(cell, one_line(error))
        return
    pictures = {cell: place.store.read_picture(source.key(cell)) for cell in missing}
    for cell in missing:
        if pictures[cell] is None:
            yield failed(cell, broken.get(cell, "its picture cannot be read back: check the disk"))
    drawn = {cell: picture for cell, picture in pictures.items() if picture is not None}
    if not drawn:
        return
    rows, errors = place.metrics.score(
        ids,
        torch.stack(list(drawn.values())),
        prompts=[plain(cell.text, source.subject.concepts) for cell in drawn],
        references=references,
        masks=masks,
        untuned=lambda: untuned(place, name, list(drawn)),
    )
    for cell, scores in zip(drawn, rows, strict=True):
        path = place.store.picture(source.key(cell))
        yield {
            **_line(cell),
            "state": "done",
            "hash": source.key(cell),
            "picture": path.relative_to(place.store.folder).as_posix(),
            "sha256": file_hash(path),
            "prompt": source.text(cell),
            "fit": source.fit,
            "seconds": known.get(cell.key, {}).get("seconds") if seconds is None else seconds,
            "scores": scores,
            "errors": errors,
        }


def draw_chunk(
    place: Workplace,
    source: Source,
    chunk: Sequence[Cell],
    missing: Sequence[Cell],
    known: Mapping[str, Line] | None = None,
) -> tuple[float | None, dict[Cell, str]]:
    """Draw what the cache lacks of ``missing``.

    Returns seconds per picture, None if it lacks none, and why a picture could not be written.
    """
    store = place.store
    lacking = []
    for cell in missing:
        line = (known or {}).get(cell.key, {})
        sha256 = line.get("sha256", "") if line.get("hash") == source.key(cell) else ""
        if store.read_picture(source.key(cell), sha256) is None:
            lacking.append(cell)
    if not lacking:
        return None, {}
    source.prepare()
    started = time.monotonic()
    drawn = source.draw(chunk)
    seconds = (time.monotonic() - started) / len(chunk)
    broken = {}
    for cell, picture in zip(chunk, drawn, strict=True):
        if cell in lacking:
            try:
                store.write_picture(source.key(cell), picture)
            except PcsError as error:
                broken[cell] = one_line(error)
    return round(seconds, 4), broken


def untuned(place: Workplace, subject: str, chosen: Sequence[Cell]) -> Tensor:
    """Return what the backbone draws untuned [n 3 h w] for the prompts and noise of these cells."""
    import torch

    job = Job(UNTUNED, subject)
    source = open_source(place, job)
    keys = {(c.index, c.seed) for c in chosen}
    pictures: dict[tuple[int, int], Tensor] = {}
    for chunk in chunks(cells(place.protocol, place.suite, job)):
        asked = [c for c in chunk if (c.index, c.seed) in keys]
        if asked:
            draw_chunk(place, source, chunk, asked)
            for cell in asked:
                picture = place.store.read_picture(source.key(cell))
                if picture is None:
                    raise InputError("an untuned picture cannot be read back: check the disk")
                pictures[cell.index, cell.seed] = picture
    return torch.stack([pictures[c.index, c.seed] for c in chosen])


def failed(cell: Cell, why: str) -> dict[str, Any]:
    """Return the line of a cell that has no picture."""
    return {**_line(cell), "state": "failed", "error": why}


def _line(cell: Cell) -> dict[str, Any]:
    return {
        "key": cell.key,
        "system": cell.system,
        "subject": cell.subject,
        "index": cell.index,
        "seed": cell.seed,
        "template": cell.text,
        "kind": cell.kind,
    }
