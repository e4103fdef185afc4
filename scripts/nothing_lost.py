"""``make reliability`` and ``make soak``: deaths, kills, full disks, hostile and drawn inputs, a soak.

    python scripts/nothing_lost.py [--stages deaths,kills,...] [--minutes 10] [--seed N] [--share 1/20]

Prints a line per stage and what is bad, writes build/reliability.json, and leaves with 1 if anything is bad.
docs/reliability.md says what each stage does. A part of it: ``--share`` does every Nth death, kill and input.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from reliability import awkward, commands, full_disk, kills, together  # noqa: E402
from reliability.deaths import Fault, Trials  # noqa: E402
from reliability.disk_changes import POWER, READ_ONLY  # noqa: E402
from reliability.inputs import Inputs  # noqa: E402
from reliability.journal import journal_deaths  # noqa: E402
from reliability.scenarios import Scenario, all_scenarios  # noqa: E402
from reliability.soak import soak  # noqa: E402

SUITES = (
    "tests/inputs",
    "tests/hostile",
    "tests/catalogue/test_unruly_plugins.py",
    "tests/storage",
)
"""The tests of hostile and of drawn inputs."""
EXAMPLES = 120
"""Inputs that each of their properties draws."""
KILLS, MEETINGS, DISKS, AWKWARD = 200, 40, 40, 120
PEAK = 3 << 30
"""Bytes of memory that a command on the tiny network may hold."""
STAGES = ("journal", "deaths", "power", "kills", "together", "disk", "awkward", "inputs", "soak")
SHARED = ("deaths", "power", "kills", "together", "disk", "awkward")
"""Stages that are shared out over processes."""


@dataclass
class Done:
    """What a stage did and what was bad."""

    count: int = 0
    bad: list[str] = field(default_factory=list)
    peak: int = 0
    seconds: float = 0.0
    note: str = ""


@dataclass
class Suite:
    """One run, or one process of it: the ``index``-th of ``processes``."""

    seed: int
    minutes: float
    part: int
    """Every part-th death, kill, meeting and disk is done."""
    folder: Path
    index: int = 0
    processes: int = 1

    def run(self, stage: str) -> Done:
        """Do a stage."""
        began = time.monotonic()
        done: Done = getattr(self, stage)()
        done.seconds = round(time.monotonic() - began, 1)
        return done

    def journal(self) -> Done:
        """Every death of what commands do with the disk, with every way to go on, without a network."""
        count, faults = journal_deaths(
            self.folder / "journal", step=self.part, every_way=self.part == 1
        )
        return Done(count, [str(fault) for fault in faults])

    def deaths(self) -> Done:
        """A death before every change of names of every command; the ways to go on take turns."""
        done = Done()
        for _, trials, mine in self.placed(1):
            self.note(done, trials, len(mine), trials.faults(mine))
        return done

    def power(self) -> Done:
        """A power cut, a disk that takes no change any more, or a second death, before every tenth change."""
        done = Done()
        for place, trials, mine in self.placed(10):
            ways: list[Iterator[Fault]] = [
                trials.faults(mine[0::3], POWER),
                trials.faults(mine[1::3], READ_ONLY),
                trials.faults_of_two(
                    [(first, 1 + (7 * first + place) % 11) for first in mine[2::3]]
                ),
            ]
            self.note(done, trials, len(mine), itertools.chain(*ways))
        return done

    def placed(self, each: int) -> Iterator[tuple[int, Trials, range]]:
        """Yield each command with its number and those of its changes that this process disturbs."""
        step = self.processes * self.part * each
        for place, scenario in enumerate(self.scenarios()):
            trials = Trials(scenario, self.folder / "trials")
            first = 1 + (self.index + place * self.processes) % step
            yield place, trials, range(first, len(trials.changes) + 1, step)

    def kills(self) -> Done:
        """Kills and signals at random moments."""
        return self.at_random(KILLS, kills.kill)

    def together(self) -> Done:
        """Two of a command at once."""
        return self.at_random(MEETINGS, together.meet)

    def disk(self) -> Done:
        """Disks that are full."""
        return self.at_random(DISKS, full_disk.fill_up)

    def awkward(self) -> Done:
        """Several signals, bounds of the system, streams that are gone, meddlers."""
        return self.at_random(AWKWARD, awkward.disturb, awkward.disturbed)

    def at_random(
        self,
        count: int,
        one: Callable[[Trials, random.Random], Iterable[Fault]],
        fit: Callable[[Scenario], bool] = lambda scenario: True,
    ) -> Done:
        """Do ``one`` on each command that is ``fit`` for it in turn, ``count`` times in all."""
        done, listed = Done(), list(filter(fit, self.scenarios()))
        numbers = range(self.index * self.part, count, self.processes * self.part)
        for place, scenario in enumerate(listed):
            mine = [n for turn, n in enumerate(numbers) if turn % len(listed) == place]
            if not mine:
                continue
            trials = Trials(scenario, self.folder / "trials")
            for number in mine:
                rng = random.Random(f"{self.seed} {one.__name__} {number}")
                self.note(done, trials, 1, one(trials, rng))
        return done

    def note(
        self, done: Done, trials: Trials, count: int, faults: Iterator[Fault] | Iterable[Fault]
    ) -> None:
        """Count what was tried; memory beyond the bound is a fault too."""
        done.bad += [str(fault) for fault in faults]
        done.count += count
        done.peak = max(done.peak, trials.peak)
        if trials.peak > PEAK:
            done.bad.append(f"{trials.scenario.name}: held {trials.peak >> 20} MB")

    def inputs(self) -> Done:
        """Hostile inputs, and drawn ones."""
        examples = max(5, EXAMPLES // self.part)
        suites = [suite for suite in SUITES if (ROOT / suite).exists()]
        words = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:warnings", *suites]
        ended = subprocess.run(
            [*words, "-n", "2", "--dist", "loadfile", f"--hypothesis-seed={self.seed}"],
            cwd=ROOT,
            env={**os.environ, "PCS_EXAMPLES": str(examples)},
            capture_output=True,
            text=True,
        )
        lines = ended.stdout.strip().splitlines() or [ended.stderr[-300:]]
        bad = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        if ended.returncode and not bad:
            bad = [f"pytest: exit {ended.returncode}: {lines[-1]}"]
        return Done(
            properties(suites) * examples, bad, note=f"{lines[-1]}; {examples} of each property"
        )

    def soak(self) -> Done:
        """One process at work for long."""
        inputs = self.made()
        soaked = soak(inputs, self.folder / "soak", self.minutes)
        note = (
            f"memory {soaked.memory / 1e6:+.0f} MB and files {soaked.files:+d} since the first quarter, "
            f"{soaked.failed} failed"
        )
        return Done(soaked.commands, [] if soaked.fine else [note], soaked.highest, note=note)

    def made(self) -> Inputs:
        """Return what the commands read."""
        inputs = Inputs(self.folder / "inputs")
        if not inputs.folder.exists():
            commands.warm()
            inputs.make()
        return inputs

    def scenarios(self) -> list[Scenario]:
        """Return every command that is killed."""
        return all_scenarios(self.made())


def properties(suites: Iterable[str]) -> int:
    """Return how many properties draw their inputs."""
    places = [ROOT / suite for suite in suites]
    files = [file for p in places for file in ([p] if p.is_file() else p.rglob("*.py"))]
    return sum(file.read_text("utf-8").count("@given(") for file in files)


def together_run(stage: str, suite: Suite, processes: int) -> Done:
    """Share a stage out over processes."""
    began = time.monotonic()
    running = []
    for index in range(processes):
        report = suite.folder / f"{stage}-{index}.json"
        words = [sys.executable, str(Path(__file__)), "--stages", stage, "--seed", str(suite.seed)]
        words += [
            "--share",
            f"1/{suite.part}",
            "--one",
            f"{index}/{processes}",
            "--report",
            str(report),
        ]
        running.append((subprocess.Popen(words, stdout=subprocess.DEVNULL), report))
    whole = Done()
    for process, report in running:
        if process.wait() not in (0, 1) or not report.exists():
            whole.bad.append(f"a process of the suite ended with {process.returncode}")
            continue
        part = json.loads(report.read_text())[stage]
        whole.count += part["count"]
        whole.bad += part["bad"]
        whole.peak = max(whole.peak, part["peak"])
    whole.seconds = round(time.monotonic() - began, 1)
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--share", default="1/1", help="1/N: every Nth of all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "reliability.json")
    given = parser.parse_args()
    stages = given.stages.split(",")
    if unknown := set(stages) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}: {', '.join(STAGES)}")
    print(f"seed {given.seed}", flush=True)
    results: dict[str, Done] = {}
    with tempfile.TemporaryDirectory(prefix="pcs-reliability-") as folder:
        suite = Suite(given.seed, given.minutes, int(given.share.split("/")[1]), Path(folder))
        if given.one:
            suite.index, suite.processes = map(int, given.one.split("/"))
        for stage in stages:
            apart = stage in SHARED and not given.one and given.processes > 1
            done = together_run(stage, suite, given.processes) if apart else suite.run(stage)
            results[stage] = done
            print(line(stage, done), *(f"  {bad}" for bad in done.bad), sep="\n", flush=True)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps({s: asdict(d) for s, d in results.items()}, indent=1) + "\n")
    return int(any(done.bad for done in results.values()))


def line(stage: str, done: Done) -> str:
    """Return what a stage did, in a line."""
    words = [f"{stage}: {done.count} tried, {len(done.bad)} bad", f"{done.seconds:.0f} s"]
    words += [f"at most {done.peak / 1e9:.1f} GB"] if done.peak else []
    return ", ".join([*words, *([done.note] if done.note else [])])


if __name__ == "__main__":
    sys.exit(main())
