"""Placed deaths: a command dies before each change of the disk's names, and is given once more."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from reliability.commands import Ended, run
from reliability.disk_changes import DEATH, READ_ONLY
from reliability.scenarios import Scenario
from reliability.trees import Tree, difference, tree

WEIGHTS = "weights.safetensors"
CLOSE = 1e-4
"""By how much weights of one fit may differ with what shares its forward."""


@dataclass(frozen=True)
class Fault:
    """A death that left a bad state."""

    scenario: str
    death: int
    change: str
    kind: str
    """lost, left, refused, other result, traceback, hang."""
    what: str

    def __str__(self) -> str:
        return (
            f"{self.scenario}, before change {self.death} ({self.change}): {self.kind}: {self.what}"
        )


@dataclass
class Trials:
    """The placed deaths of one scenario, in ``folder``."""

    scenario: Scenario
    folder: Path
    every_way: bool = False
    """Whether each way to go on is tried after each death; else they take turns."""
    judged: int = 0
    peak: int = 0
    """Bytes of memory that a command held at most."""

    def __post_init__(self) -> None:
        self.place = self.folder / "trial"
        self.notes = self.folder / "notes"
        self.scenario.set_up(self.place)
        self.old = self._out()
        ended = self._run()
        if ended.code:
            raise RuntimeError(f"{self.scenario.name}: exit {ended.code}\n{ended.err}")
        self.changes, self.whole, self.new = ended.changes, self.tree(), self._out()
        self.weights = self._weights()
        out = self.place / self.scenario.out
        self.largest = max((p.stat().st_size for p in out.rglob("*") if p.is_file()), default=0)
        self.seconds = ended.seconds

    def faults(self, deaths: Iterable[int], how: str = DEATH) -> Iterator[Fault]:
        """Disturb the command before each of the changes ``deaths``, and yield what is bad after it."""
        for death in deaths:
            self.scenario.set_up(self.place)
            ended = self._run(death=death, how=how)
            unclear = how == READ_ONLY and not refused_clearly(ended)
            worse = [("unclear", f"exit {ended.code}: {ended.err[-300:]}")] if unclear else []
            for kind, what in (*worse, *self.judge(ended)):
                yield Fault(self.scenario.name, death, self.changes[death - 1], kind, what)

    def faults_of_two(self, deaths: Iterable[tuple[int, int]]) -> Iterator[Fault]:
        """Die before the first change of each pair, go on, die before the second, and yield what is bad."""
        for first, second in deaths:
            self.scenario.set_up(self.place)
            self._run(death=first)
            ended = self._run(*self.ways()[-1], death=second)
            where = f"{self.changes[first - 1]}, then {second} while going on"
            for kind, what in self.judge(ended):
                yield Fault(self.scenario.name, first, where, kind, what)

    def judge(self, ended: Ended) -> Iterator[tuple[str, str]]:
        """Yield what is bad of the state that a death or a kill left, and after each way to go on."""
        if ended.traceback:
            yield "traceback", ended.err[-300:]
        if ended.hung:
            yield "hang", "the command itself"
        state = self._out()
        bare = {name: hash for name, hash in self.new.items() if not name.endswith("preview.png")}
        if ended.code == 0 and set(bare) <= set(state) < set(self.new):
            return  # an interrupted preview is left out, and that is said
        one = self.scenario.overwrites and not self.scenario.partly
        if one and state not in (self.old, self.new):
            yield "lost", f"out is neither old nor new: {difference(state, self.old or self.new)}"
        kept = self.folder / "state"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.place, kept, symlinks=True)
        ways = self.ways()
        if not self.every_way:
            ways = [ways[self.judged % len(ways)]]
        self.judged += 1
        for way in ways:
            shutil.rmtree(self.place)
            shutil.copytree(kept, self.place, symlinks=True)
            again = self._run(*way)
            for kind, what in self._after(way, again, finished=state == self.new):
                yield kind, f"{' '.join(way) or 'the same command'}: {what}"

    def _run(self, *more: str, death: int | None = None, how: str = DEATH) -> Ended:
        words = (*self.scenario.arguments, *more)
        program = self.scenario.program
        ended = run(words, self.place, self.notes, death=death, how=how, program=program)
        self.peak = max(self.peak, ended.peak)
        return ended

    def ways(self) -> list[tuple[str, ...]]:
        """Return what is put behind the command to go on."""
        ways: list[tuple[str, ...]] = [()]
        if self.scenario.resumes:
            ways.append(("--resume",))
        if self.scenario.overwrites and "--overwrite" not in self.scenario.arguments:
            ways.append(("--overwrite",))
        return ways

    def _after(
        self, way: tuple[str, ...], again: Ended, *, finished: bool
    ) -> Iterator[tuple[str, str]]:
        if again.traceback:
            yield "traceback", again.err[-300:]
        if again.hung:
            yield "hang", f"after {again.seconds:.0f} s"
        if again.code == 0:
            if unlike := difference(self.tree(), self.whole):
                other = "lacks" in unlike or "differs" in unlike
                yield "other result" if other else "left", unlike
            elif far := [n for n, w in self._weights().items() if not alike(w, self.weights[n])]:
                yield "other result", f"other numbers in {far}"
            return
        known = [
            word for word in ("--resume", "--overwrite") if any(word in w for w in self.ways())
        ]
        named = self.scenario.resumes and all(word in again.err for word in known)
        named |= self.scenario.partly and "--overwrite" in again.err
        done = finished and "not empty" in again.err and (not way or self.tree() == self.whole)
        fine = again.code == 2 and (done or (named and not way))
        if not fine:
            yield "refused", f"exit {again.code}: {again.err.strip()[-200:]}"

    def tree(self) -> Tree:
        """Return what lies in the place of the trial, as it is compared."""
        names = tree(self.place)
        if not self.scenario.loose:
            return names
        exact = (".png",) if self.scenario.close else (".png", WEIGHTS)
        return {name: hash if name.endswith(exact) else "" for name, hash in names.items()}

    def _weights(self) -> dict[str, Any]:
        if not self.scenario.close:
            return {}
        files = (self.place / self.scenario.out).rglob(WEIGHTS)
        return {str(file.relative_to(self.place)): load_file(file) for file in files}

    def _out(self) -> Tree:
        return tree(self.place / self.scenario.out)


def refused_clearly(ended: Ended) -> bool:
    """Return whether a command said in one line what it could not do, or did all that matters."""
    lines = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
    return ended.code == 0 or (ended.code == 2 and len(lines) == 1)


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether tensors are the same but for their last bits."""
    return one.keys() == other.keys() and all(
        bool(((one[name] - other[name]).abs() <= CLOSE).all()) for name in one
    )
