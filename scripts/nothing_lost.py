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
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import fuzz  # noqa: E402
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
NAMED = ("fit", "sample", "merge", "export", "pretrain", "bench")
"""The commands that the 200 kills are of; signals are sent to all."""
KILLS, SIGNALS, MEETINGS, DISKS, AWKWARD = 200, 100, 40, 40, 120
DRAWN = 500
"""Inputs that the fuzzer changes by chance for each of its readers."""
BRANCHED = {"header": 5000, "toml": 5000, "png": 2000}
"""Inputs that atheris chooses by the branches that they take, where it is installed."""
DREW = re.compile(
    r"- (\d+) passing(?: examples)?, (\d+) failing(?: examples)?, (?:and )?(\d+) invalid"
)
"""What hypothesis says of one phase of a property."""
TALLY = re.compile(r"(\d+) (passed|failed|error)")
"""What pytest says at its end."""
SAID = ROOT / "build" / "reliability-inputs.txt"
PEAK = 3 << 30
"""Bytes of memory that a command on the tiny network may hold."""
SHARED = ("deaths", "power", "kills", "signals", "together", "disk", "awkward")
"""Stages that are shared out over processes."""
ALONE = ("soak", "journal", "fuzz")
"""Stages of one process each; the first takes its minutes, and all else comes beside it."""
PARTS = 3
"""Parts for each process: none waits long for another at the end, and few measure each command again."""
STAGES = (*ALONE, *SHARED, "inputs")


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
    given: Path | None = None
    """Where what the commands read is already."""
    begun: dict[str, Trials] = field(default_factory=dict)
    """The trials of each command, which measure it undisturbed once."""
    inputs_made: Inputs | None = None

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
            trials = self.trials(scenario)
            first = 1 + (self.index + place * self.processes) % step
            yield place, trials, range(first, len(trials.changes) + 1, step)

    def trials(self, scenario: Scenario) -> Trials:
        """Return the trials of a command."""
        if scenario.name not in self.begun:
            self.begun[scenario.name] = Trials(scenario, self.folder / "trials")
        return self.begun[scenario.name]

    def kills(self) -> Done:
        """Kills at random moments of the commands that work for long."""
        return self.at_random(KILLS, kills.kill, lambda one: one.name.split()[0] in NAMED)

    def signals(self) -> Done:
        """Kills, SIGTERM, SIGHUP and SIGINT at random moments of all commands."""
        return self.at_random(SIGNALS, kills.end)

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
            mine = [n for n in numbers if n // self.part % len(listed) == place]
            if not mine:
                continue
            trials = self.trials(scenario)
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
        large = f"{trials.scenario.name}: held more than {PEAK >> 20} MB"
        if trials.peak > PEAK and large not in done.bad:
            done.bad.append(large)

    def inputs(self) -> Done:
        """Hostile inputs, and drawn ones."""
        examples = max(5, EXAMPLES // self.part)
        suites = [suite for suite in SUITES if (ROOT / suite).exists()]
        words = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:warnings", *suites]
        words += ["-n", "2", "--dist", "loadfile", f"--hypothesis-seed={self.seed}"]
        more = {"PCS_EXAMPLES": str(examples), "PCS_HOSTILE_SHARE": str(self.part)}
        ended = subprocess.run(
            [
                *words,
                *(("-m", "not slow") if self.part > 1 else ()),
                "--hypothesis-show-statistics",
            ],
            cwd=ROOT,
            env={**os.environ, **more},
            capture_output=True,
            text=True,
        )
        lines = ended.stdout.strip().splitlines() or [ended.stderr[-300:]]
        bad = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        last = next((line for line in reversed(lines) if TALLY.search(line)), lines[-1])
        if ended.returncode and not bad:
            bad = [f"pytest: exit {ended.returncode}: {last}"]
        counts = [sum(map(int, said.groups())) for said in map(DREW.search, lines) if said]
        if not counts:
            bad.append("hypothesis said of no input that it drew one")
        if bad:
            SAID.parent.mkdir(exist_ok=True)
            SAID.write_text(ended.stdout + ended.stderr, "utf-8")
            bad.append(f"all that pytest said is in {SAID.relative_to(ROOT)}")
        tests = sum(int(count) for count, _ in TALLY.findall(last))
        note = f"{last.strip()}; {sum(counts)} drawn inputs in {len(counts)} phases"
        return Done(tests + sum(counts), bad, note=note)

    def fuzz(self) -> Done:
        """Broken files for each reader: changed by chance, and where atheris is, chosen by branches."""
        done, runs = Done(), max(5, DRAWN // self.part)
        for target in fuzz.TARGETS:
            done.bad += [f"fuzz {target}: {why}" for why in fuzz.by_chance(target, runs, self.seed)]
            done.count += runs
        if not fuzz.find_atheris():
            done.note = "atheris is not installed: inputs by chance alone"
            return done
        for target, most in BRANCHED.items():
            words = [
                sys.executable,
                str(ROOT / "scripts" / "fuzz.py"),
                target,
                "--seed",
                str(self.seed),
            ]
            words += ["--engine", "atheris", "--runs", str(count := max(50, most // self.part))]
            ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
            if ended.returncode or f"Done {count} runs" not in ended.stderr:
                done.bad.append(f"fuzz {target} by branches: {ended.stderr[-300:]}")
            done.count += count
        done.note = f"{runs} inputs of each reader by chance, the others by branches"
        return done

    def soak(self) -> Done:
        """One process at work for long."""
        inputs = self.made()
        soaked = soak(inputs, self.folder / "soak", self.minutes)
        note = (
            f"memory {soaked.memory / 1e6:+.0f} MB and files {soaked.files:+d} since the first quarter, "
            f"{len(soaked.failed)} failed"
        )
        bad = [] if soaked.fine else [note, *soaked.failed]
        return Done(soaked.commands, bad, soaked.highest, note=note)

    def made(self) -> Inputs:
        """Return what the commands read."""
        if self.inputs_made is None:
            commands.warm()
            self.inputs_made = Inputs(self.given or self.folder / "inputs")
            if self.given is None:
                self.inputs_made.make()
        return self.inputs_made

    def scenarios(self) -> list[Scenario]:
        """Return every command that is killed."""
        return all_scenarios(self.made())


@dataclass(frozen=True)
class Job:
    """Stages for one process: all of them, or the ``index``-th of so many ``parts``."""

    stages: tuple[str, ...]
    index: int = 0
    parts: int = 1

    def start(self, suite: Suite) -> Part:
        """Start the process."""
        report = suite.folder / f"{self.stages[0]}-{self.index}.json"
        words = [sys.executable, str(Path(__file__)), "--stages", ",".join(self.stages), "--inner"]
        words += ["--seed", str(suite.seed), "--minutes", str(suite.minutes)]
        words += ["--share", f"1/{suite.part}", "--one", f"{self.index}/{self.parts}"]
        words += ["--inputs", str(suite.made().folder)]
        return Part(subprocess.Popen([*words, "--report", str(report)]), report, self.stages)


@dataclass
class Part:
    """A process that does a part of some stages."""

    process: subprocess.Popen[bytes]
    report: Path
    stages: tuple[str, ...]

    def add_to(self, results: dict[str, Done]) -> None:
        """Add what it did, at its end."""
        if self.process.returncode not in (0, 1) or not self.report.exists():
            first = results.setdefault(self.stages[0], Done())
            first.bad.append(f"a process of the suite ended with {self.process.returncode}")
            return
        for stage, part in json.loads(self.report.read_text()).items():
            whole = results.setdefault(stage, Done())
            whole.count += part["count"]
            whole.bad += part["bad"]
            whole.note = part["note"]
            whole.peak = max(whole.peak, part["peak"])
            whole.seconds += part["seconds"]


def in_processes(stages: Iterable[str], suite: Suite, processes: int) -> Iterator[tuple[str, Done]]:
    """Do stages in so many processes at a time, the longest first; yield each stage when all is done."""
    waiting = [Job(ALONE[:1])] if ALONE[0] in stages else []
    if alone := tuple(stage for stage in ALONE[1:] if stage in stages):
        waiting.append(Job(alone))
    if shared := tuple(stage for stage in SHARED if stage in stages):
        parts = PARTS * processes
        waiting += [Job(shared, index, parts) for index in range(parts)]
    results: dict[str, Done] = {}
    running: list[Part] = []
    while waiting or running:
        while waiting and len(running) < processes:
            running.append(waiting.pop(0).start(suite))
        time.sleep(0.2)
        for part in [part for part in running if part.process.poll() is not None]:
            running.remove(part)
            part.add_to(results)
    yield from results.items()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--share", default="1/1", help="1/N: every Nth of all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--one", default="0/1", help=argparse.SUPPRESS)
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "reliability.json")
    given = parser.parse_args()
    stages = given.stages.split(",")
    if unknown := set(stages) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}: {', '.join(STAGES)}")
    indent = "    " if given.inner else ""
    began = time.monotonic()
    if not given.inner:
        print(f"seed {given.seed}", flush=True)
    results: dict[str, Done] = {}
    with tempfile.TemporaryDirectory(prefix="pcs-reliability-") as folder:
        suite = Suite(given.seed, given.minutes, int(given.share.split("/")[1]), Path(folder))
        suite.index, suite.processes = map(int, given.one.split("/"))
        suite.given = given.inputs
        here = [stage for stage in stages if given.inner or stage == "inputs"]
        doing = [
            iter(()) if given.inner else in_processes(stages, suite, given.processes),
            ((stage, suite.run(stage)) for stage in here),
        ]
        for stage, done in itertools.chain(*doing):
            results[stage] = done
            said = [line(stage, done), *(f"  {bad}" for bad in done.bad)]
            print(*(indent + text for text in said), sep="\n", flush=True)
    if not given.inner:
        bad = sum(len(done.bad) for done in results.values())
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cores = sum(one.ru_utime + one.ru_stime for one in used) / 60
        minutes = (time.monotonic() - began) / 60
        print(f"{bad} bad, {minutes:.1f} minutes, {cores:.1f} of a processor, seed {given.seed}")
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
