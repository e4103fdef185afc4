"""A disk that takes no more: one clear message, nothing half-written, and a way on."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from random import Random

from reliability.commands import Program, run
from reliability.deaths import Fault, Trials
from reliability.trees import tree


def limited(size: int, program: Program | None) -> Program:
    """Return a program whose files can have ``size`` bytes at most, as on a full disk."""

    def start(words: list[str]) -> int:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
        try:
            return give(words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    def give(words: list[str]) -> int:
        if program is None:
            from pcs_cli.main import main

            return main(words)
        return program(words)

    return start


def fill_up(trials: Trials, rng: Random) -> Iterator[Fault]:
    """Give a command too little room, then enough; yield what is bad."""
    scenario = trials.scenario
    size = rng.randrange(0, max(1, trials.largest))
    scenario.set_up(trials.place)
    before = tree(trials.place / scenario.out)
    words = scenario.arguments
    ended = run(words, trials.place, trials.notes, program=limited(size, scenario.program))
    where = f"room for {size} bytes a file"

    def fault(kind: str, what: str) -> Fault:
        return Fault(scenario.name, 0, where, kind, what)

    if not trials.changes:  # it writes nothing, so that a full disk is nothing to it
        if ended.code:
            yield fault("refused", f"exit {ended.code}: {ended.err[-300:]}")
        return
    lines = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
    if ended.code not in (2, 3) or (scenario.overwrites and len(lines) != 1):
        yield fault("unclear", f"exit {ended.code}: {ended.err[-300:]}")
    one = scenario.overwrites and not scenario.partly
    if one and tree(trials.place / scenario.out) != before:
        yield fault("lost", "out is not as it was")
    for kind, what in trials.judge(ended):
        yield fault(kind, what)
