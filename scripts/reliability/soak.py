"""One process that gives commands for a long time: its memory and its files stay what they are."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from reliability.inputs import Inputs, Words
from reliability.scenarios import writings

GROWTH = 96 << 20
"""Bytes by which memory may grow after the first part: less than 100 MB, however long it takes."""
FIRST = 0.25
"""The share of the time that is the first part, in which caches fill."""


@dataclass
class Soaked:
    """How many commands a process gave, and how it grew in bytes of memory and in open files."""

    commands: int
    failed: list[str]
    """What ended otherwise than it should have."""
    memory: int
    files: int
    highest: int
    """Bytes of memory at most."""

    @property
    def fine(self) -> bool:
        """Whether nothing failed and nothing grew."""
        return not self.failed and self.memory <= GROWTH and self.files <= 0


def soak(inputs: Inputs, place: Path, minutes: float) -> Soaked:
    """Give commands in turn in this process for ``minutes``."""
    from pcs_cli.main import main

    place.mkdir(parents=True, exist_ok=True)
    os.chdir(place)
    commands = commands_of(inputs)
    until, began = time.monotonic() + 60 * minutes, time.monotonic()
    done = highest = 0
    failed: list[str] = []
    first: tuple[int, int] | None = None
    while time.monotonic() < until or done < 2 * len(commands):
        words, code = commands[done % len(commands)]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            ended = main([str(word) for word in words])
        if ended != code:
            failed.append(f"{words[0]}: exit {ended} in place of {code}: {said.getvalue()[-200:]}")
        for path in place.glob("out*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        done += 1
        highest = max(highest, memory())
        if first is None and time.monotonic() - began > FIRST * 60 * minutes:
            first = (memory(), open_files())
    first = first or (memory(), open_files())
    return Soaked(done, failed, memory() - first[0], open_files() - first[1], highest)


def commands_of(inputs: Inputs) -> list[tuple[Words, int]]:
    """Return one command of each kind, and with which code it ends."""
    drawn = ("sample", inputs.folder / "a", "a <rex>", "-n", 2, "--out", "out")
    wrong = ("sample", inputs.folder / "a", "a <rexx>", "--steps", 1, "-n", 1, "--out", "out")
    written = [s.arguments for s in writings(inputs) if not s.before]
    right = [drawn, inputs.fit_words(), inputs.several_words(), *written]
    return [*((words, 0) for words in right), (wrong, 2)]


def memory() -> int:
    """Return the bytes of memory that this process holds now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    """Return how many files this process has open."""
    return len(os.listdir("/proc/self/fd"))
