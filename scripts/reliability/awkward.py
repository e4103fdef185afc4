"""What else happens to a command at work: several signals, bounds of the system, no streams, meddlers."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from reliability.commands import Ended, Program, run, start
from reliability.deaths import Fault, Trials
from reliability.scenarios import Scenario

Signals = tuple[tuple[int, float], ...]
"""What is sent, and how many seconds after the one before it."""
INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL
SEQUENCES: dict[str, Signals] = {
    "Ctrl-C twice": ((INT, 0), (INT, 0.02)),
    "Ctrl-C three times": ((INT, 0), (INT, 0.1), (INT, 0.1)),
    "Ctrl-C, then terminated": ((INT, 0), (TERM, 0.05)),
    "Ctrl-C, then killed": ((INT, 0), (KILL, 0.02)),
    "terminated, then killed": ((TERM, 0), (KILL, 0.1)),
    "terminated twice": ((TERM, 0), (TERM, 0.01)),
    "hung up, then killed": ((HUP, 0), (KILL, 0.03)),
    "hung up and Ctrl-C": ((HUP, 0), (INT, 0.01)),
    "all at once": ((HUP, 0), (INT, 0), (TERM, 0)),
    "stopped and continued": ((signal.SIGSTOP, 0), (signal.SIGCONT, 0.3)),
    "stopped, then killed": ((signal.SIGSTOP, 0), (KILL, 0.1)),
    "stopped, Ctrl-C, continued": ((signal.SIGSTOP, 0), (INT, 0.1), (signal.SIGCONT, 0.1)),
    "quit": ((signal.SIGQUIT, 0),),
    "aborted": ((signal.SIGABRT, 0),),
    "a fault of a library": ((signal.SIGSEGV, 0),),
    "a bus error": ((signal.SIGBUS, 0),),
    "an alarm": ((signal.SIGALRM, 0),),
    "too much time": ((signal.SIGXCPU, 0),),
    "user's signal": ((signal.SIGUSR1, 0),),
    "window changed": ((signal.SIGWINCH, 0), (signal.SIGWINCH, 0.1)),
}


def files(count: int) -> Callable[[], None]:
    """Return what lets a command open so many files."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def stream(number: int, path: str | None) -> Callable[[], None]:
    """Return what puts a file in place of a standard stream, or closes it."""

    def change() -> None:
        if path is None:
            os.close(number)
        else:
            os.dup2(os.open(path, os.O_RDWR), number)

    return change


def variable(name: str, value: str | None) -> Callable[[], None]:
    """Return what sets or takes away a variable of the environment."""
    return lambda: os.environ.pop(name, None) if value is None else os.environ.update({name: value})


NOWHERE = "/proc/nowhere/at/all"
"""A folder that nobody can make."""
NO_MEMORY = "no memory"
SURROUNDINGS: dict[str, Callable[[], object]] = {
    "20 open files": files(20),
    "40 open files": files(40),
    NO_MEMORY: lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
    "printing into a full disk": stream(1, "/dev/full"),
    "messages into a full disk": stream(2, "/dev/full"),
    "no standard input": stream(0, None),
    "no standard output": stream(1, None),
    "no standard error": stream(2, None),
    "no home": variable("HOME", None),
    "a home that is a file": variable("HOME", "/dev/null"),
    "a home that is not there": variable("HOME", NOWHERE),
    "a cache that is a file": variable("XDG_CACHE_HOME", "/dev/null"),
    "no temporary folder": variable("TMPDIR", NOWHERE),
    "a language of bytes": variable("LC_ALL", "C"),
    "a mask of everything": lambda: os.umask(0o777),
    "a mask of nothing": lambda: os.umask(0),
    "no lines on the terminal": variable("COLUMNS", "0"),
}


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True) if path.is_file() else None


MEDDLING: dict[str, Callable[[Path], object]] = {
    "its work is removed": lambda place: remove(place / "out.partial"),
    "its lock is removed": lambda place: remove(place / ".out.pcs"),
    "its lock is emptied": lambda place: (place / ".out.pcs").write_text(""),
    "its lock is overwritten": lambda place: (place / ".out.pcs").write_bytes(b"\0" * 500),
    "a letter in its way": lambda place: (
        (place / "out").mkdir(exist_ok=True),
        (place / "out" / "letter").write_text("dear"),
    ),
    "a file in its way": lambda place: (remove(place / "out"), (place / "out").write_text("dear")),
    "a link in its way": lambda place: (
        remove(place / "out"),
        (place / "out").symlink_to(place / "nowhere"),
    ),
}
NAMES = (*SEQUENCES, *SURROUNDINGS, *MEDDLING)


def disturb(trials: Trials, rng: Random) -> Iterator[Fault]:
    """Disturb a command in one of these ways at a random moment; yield what is bad, also of going on."""
    name = rng.choice(NAMES)
    moment = rng.uniform(0.1, 0.9) * trials.seconds
    scenario = trials.scenario
    scenario.set_up(trials.place)
    if name in SURROUNDINGS:
        around = surrounded(SURROUNDINGS[name], scenario.program)
        ended = run(scenario.arguments, trials.place, trials.notes, program=around)
        # where C code finds no memory it may crash: that is a death, after which nothing may be lost
        died = name == NO_MEMORY and ended.code < 0
        verdicts = [*(() if died else clear(ended)), *trials.judge(ended)]
    elif name in MEDDLING:
        ended = meddled(trials, MEDDLING[name], moment)
        verdicts = [*clear(ended), *lost_letter(trials.place, name)]
    else:
        ended = sent(trials, SEQUENCES[name], moment)
        verdicts = list(trials.judge(ended))
    for kind, what in verdicts:
        yield Fault(scenario.name, 0, f"{name}, after {moment:.2f} s", kind, what)


def surrounded(change: Callable[[], object], program: Program | None) -> Program:
    """Return a program that changes what is around it before it begins."""

    def begin(words: list[str]) -> int:
        change()
        if program is not None:
            return program(words)
        from pcs_cli.main import main

        return main(words)

    return begin


def sent(trials: Trials, signals: Signals, moment: float) -> Ended:
    """Send signals to a command, the first at ``moment``."""
    running = start(trials.scenario.arguments, trials.place, trials.notes)
    for number, later in signals:
        moment += later
        running.rest(moment)
        running.send(number)
    return running.wait()


def meddled(trials: Trials, change: Callable[[Path], object], moment: float) -> Ended:
    """Change something beside a command at work."""
    running = start(trials.scenario.arguments, trials.place, trials.notes)
    running.rest(moment)
    with contextlib.suppress(OSError):  # it is not there yet, or gone
        change(trials.place)
    return running.wait()


def clear(ended: Ended) -> Iterator[tuple[str, str]]:
    """Yield what is bad of how a command said that it could not do its work."""
    if ended.hung:
        yield "hang", f"after {ended.seconds:.0f} s"
    if ended.traceback:
        yield "traceback", ended.err[-300:]
    elif ended.code not in (0, 1, 2, 3):
        yield "exit code", f"{ended.code}: {ended.err[-200:]}"


def lost_letter(place: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield whether what somebody else wrote there is gone."""
    if name == "a letter in its way" and not list(place.rglob("letter")):
        yield "lost", "a letter that lay in out"


def disturbed(scenario: Scenario) -> bool:
    """Return whether a scenario is disturbed: of those that write one folder ``out``."""
    return scenario.overwrites and scenario.out == "out" and scenario.program is None
