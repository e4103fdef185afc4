"""A whole run: what is missing is done, line by line, and nothing that is there is done again."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcs_bench.run.engines import Event, Pool, devices, inline, need_ray, ray_cluster
from pcs_bench.run.keys import versions
from pcs_bench.run.plan import BASELINES, Cell, Job, Protocol, cells, find_subject, jobs
from pcs_bench.run.progress import Meter
from pcs_bench.run.sets import score_sets
from pcs_bench.run.store import PROTOCOL, SETS, Appender, Store, write_json
from pcs_bench.run.work import failed
from pcs_bench.run.workplace import Workplace, load_system
from pcs_core.errors import InputError, PcsError, nearest

ENGINES = ("local", "inline", "ray")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. ``errors`` are distinct reasons with the number of cells each stopped."""

    cells: int
    failed: int
    kept: int
    seconds: float
    errors: Mapping[str, int]

    @property
    def exit_code(self) -> int:
        """0: every cell done; 3: finished with failed rows."""
        return 3 if self.errors else 0


# long: the order of a whole run, under one lock of the folder
def run_bench(
    protocol: Protocol,
    folder: Path,
    *,
    workers: int = 0,
    engine: str = "local",
    suite: Any = None,
    metrics: Any = None,
) -> Outcome:
    """Run a protocol into ``folder``; go on there if it was begun.

    ``suite`` and ``metrics`` stand in for those of the protocol, with engine "inline" only.

    Raises
    ------
    InputError
        No such suite, subject or backbone, settings that are none, or a folder in use.
    """
    import torch

    from pcs_core import open_backbone

    started = time.monotonic()
    check_engine(engine, in_memory=suite is not None or metrics is not None)
    store = Store(folder.resolve())
    if suite is None:
        from pcs_bench import suites

        suite = suites.load(protocol.suite)
    check(protocol, suite)
    card = open_backbone(protocol.backbone, device="cpu").card
    with store.locked():
        known = store.cells()
        todo = jobs(protocol)
        of = {job: cells(protocol, suite, job) for job in todo}
        write_json(store.folder / PROTOCOL, facts(protocol, suite, card, engine, of))

        def known_of(job: Job) -> dict[str, Any]:
            return {c.key: known[c.key] for c in of[job] if c.key in known}

        place = Workplace(store, protocol, suite, metrics)
        meter = Meter(sum(map(len, of.values())), todo)

        def at_once(count: int) -> None:
            meter.workers = count

        if engine == "inline":
            events = inline(place, todo, known_of)
        elif engine == "ray":
            events = ray_cluster(
                store.folder, protocol, todo, known_of, workers=workers, started=at_once
            )
        else:
            assigned = devices(protocol.device, workers, len(todo))
            at_once(len(assigned))
            # never more than this process may use: OMP_NUM_THREADS holds for the workers too
            threads = (
                max(1, torch.get_num_threads() // len(assigned)) if protocol.device == "cpu" else 0
            )
            events = Pool(store.folder, protocol, assigned, threads).run(todo, known_of)
        with store.appending() as appender:
            lines = follow(events, of, known, appender, meter)
        sets = score_sets(place, of, lines)
        write_json(store.folder / SETS, sets)
    seconds = time.monotonic() - started
    return Outcome(meter.cells, meter.failed, meter.kept, seconds, count_errors(lines, sets))


def check_engine(engine: str, *, in_memory: bool) -> None:
    """Refuse an engine that is none, or that cannot be given an ``in_memory`` suite or metrics of this process.

    Raises
    ------
    InputError
        One of these, or "ray" without Ray installed.
    """
    if engine not in ENGINES:
        close = nearest(engine, ENGINES)
        raise InputError(f"no engine {engine!r}{close}: one of {', '.join(ENGINES)}")
    if in_memory and engine != "inline":
        raise InputError("a suite or metrics that only this process knows need engine 'inline'")
    if engine == "ray":
        need_ray()


def count_errors(
    lines: Mapping[str, Mapping[str, Any]], sets: Iterable[Mapping[str, Any]]
) -> dict[str, int]:
    """Return error -> how many cells, metrics of cells and scores of sets it ended."""
    messages: list[str] = []
    for line in lines.values():
        messages += [line.get("error", ""), *line.get("errors", {}).values()]
    messages += [row.get("error", "") for row in sets]
    return dict(Counter(why for why in messages if why))


def follow(
    events: Iterator[Event],
    of: Mapping[Job, list[Cell]],
    known: Mapping[str, Mapping[str, Any]],
    appender: Appender,
    meter: Meter,
) -> dict[str, Mapping[str, Any]]:
    """Write what happens; return the line of every cell. A cell that a job left out has failed."""
    lines: dict[str, Mapping[str, Any]] = {}
    worked: set[Job] = set()

    def note(line: Mapping[str, Any]) -> None:
        key = line["key"]
        if line.get("kept"):
            lines[key] = known[key]
            meter.cell(state="kept")
            return
        fresh = key not in lines  # a job begun twice tells some of its cells twice
        lines[key] = line
        appender.add(line)
        if fresh:
            meter.cell(state=line["state"])

    for event in events:
        if event.line is not None:
            if event.line["key"] in lines and lines[event.line["key"]].get("state") == "done":
                continue
            if not event.line.get("kept"):
                worked.add(event.job)
            note(event.line)
            continue
        for cell in of[event.job]:
            if cell.key not in lines:
                note(failed(cell, event.error or "its worker said nothing of it"))
        meter.job(event.job, event.seconds, worked=event.job in worked)
    return lines


def check(protocol: Protocol, suite: Any) -> None:
    """Refuse a protocol of which nothing could come.

    Raises
    ------
    InputError
        Names what is wrong. One unknown system among others is a failed row, not an error.
    """
    from pcs_bench.run.plan import split_setting

    if protocol.seeds < 1 or protocol.prompts < 0:
        raise InputError("give at least one seed, and no negative number of prompts")
    if not protocol.subjects:
        raise InputError(f"suite {suite.id!r} gives no subject")
    for name in protocol.subjects:
        find_subject(suite, name)
    for name in protocol.systems:
        if protocol.systems.count(name) > 1:
            raise InputError(f"system {name!r} is named twice")
    for setting in protocol.settings:
        split_setting(setting)
    check_known(protocol.systems)
    _check_loads(protocol)


def _check_loads(protocol: Protocol) -> None:
    # a setting that no system has would fail every row; one that some have not fails theirs
    errors = []
    for name in protocol.systems:
        if name not in BASELINES:
            try:
                load_system(protocol, name)
                return
            except PcsError as error:
                errors.append(error)
    if errors:
        raise errors[0]


def check_known(systems: Sequence[str]) -> None:
    """Refuse a list of which no system is known; one unknown among others is a failed row.

    Raises
    ------
    InputError
        Names the nearest system.
    """
    from pcs_core import installed

    names = {*installed().recipe_files(), *BASELINES}
    known = [s for s in systems if s in names or s.endswith(".toml")]
    if not [s for s in known if s not in BASELINES]:
        asked = [s for s in systems if s not in BASELINES]
        if not asked:
            raise InputError("give at least one system: --systems a,b (see pcs systems)")
        raise InputError(f"no system {asked[0]!r}{nearest(asked[0], names)}: see pcs systems")


def facts(
    protocol: Protocol, suite: Any, card: Any, engine: str, of: Mapping[Job, list[Cell]]
) -> dict[str, Any]:
    """Return what ``run.json`` says: the exact protocol, and where it ran."""
    import torch

    subjects = [find_subject(suite, name) for name in protocol.subjects]
    return {
        **protocol.document(),
        "suite_kind": suite.kind,
        "stands_for": getattr(suite, "stands_for", ""),
        "subject_facts": [
            {
                "name": s.name,
                "noun": s.noun,
                "token": s.token,
                "class": str(getattr(s, "class_", "") or ""),
            }
            for s in subjects
        ],
        "cells": [cell.key for row in of.values() for cell in row],
        "backbone_card": {
            "id": card.id,
            "hash": card.hash,
            "family": card.family,
            "size": list(card.size),
        },
        "versions": versions(),
        "engine": engine,
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        },
        "written": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
