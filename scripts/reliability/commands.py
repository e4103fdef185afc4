"""Runs ``pcs`` in forked processes: warm, so that a command takes a fraction of a second."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reliability.disk_changes import DiskChanges

Program = Callable[[list[str]], int]
"""What is given the words of a command, and returns its exit code."""
LIMIT = 180.0
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or minus the signal; what it printed; its changes of names."""

    code: int
    out: str
    err: str
    seconds: float
    changes: tuple[str, ...] = ()
    hung: bool = False

    @property
    def traceback(self) -> bool:
        """Whether it showed the inside of the program."""
        return "Traceback (most recent" in self.err or "internal error" in self.err


@dataclass
class Running:
    """A command at work."""

    pid: int
    notes: Path
    began: float

    def send(self, number: int) -> None:
        """Send a signal to it and to the processes that it started, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def poll(self) -> int | None:
        """Return the exit code of a command that ended; it is asked no more after that."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return None if pid == 0 else os.waitstatus_to_exitcode(status)

    def wait(
        self, limit: float = LIMIT, kill_after: float | None = None, by: int = signal.SIGKILL
    ) -> Ended:
        """Wait for the end, for ``limit`` seconds at most; send ``by`` after ``kill_after`` seconds."""
        hung = sent = False
        while (code := self.poll()) is None:
            passed = time.monotonic() - self.began
            if kill_after is not None and not sent and passed >= kill_after:
                self.send(by)
                sent = True
            if passed > limit:
                self.send(signal.SIGKILL)
                hung = True
            time.sleep(0.002 if passed < 2 else 0.01)
        self.send(signal.SIGKILL)  # what it started and left
        return Ended(
            code,
            self._read("out"),
            self._read("err"),
            time.monotonic() - self.began,
            tuple(self._read("changes").splitlines()),
            hung,
        )

    def _read(self, what: str) -> str:
        path = self.notes.with_suffix(f".{what}")
        return path.read_text("utf-8", "replace") if path.exists() else ""


def warm() -> None:
    """Import what commands import, once, for all that are forked from here."""
    import torch

    from pcs_cli.main import main

    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        out = str(Path(folder) / "out")
        if main(["sample", "--base", "tiny", "a dog", "--steps", "1", "--out", out]):
            raise RuntimeError("nothing can be drawn")


def start(
    arguments: Sequence[object],
    place: Path,
    notes: Path,
    *,
    death: int | None = None,
    program: Program | None = None,
) -> Running:
    """Start ``pcs`` with ``arguments`` in the folder ``place``; dies before change ``death`` of names there.

    What it prints goes to files named after ``notes``. ``program`` stands in for ``pcs``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    pid = os.fork()
    if pid:
        return Running(pid, notes, began)
    code = 70
    try:
        os.setpgid(0, 0)
        for number, what in ((1, "out"), (2, "err")):
            os.dup2(
                os.open(notes.with_suffix(f".{what}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
                number,
            )
        os.chdir(place)
        os.environ["XDG_CACHE_HOME"] = str(notes.parent / "cache")
        changes = DiskChanges(place.resolve(), death)
        changes.watch()
        if program is None:
            from pcs_cli.main import main as program
        code = program([str(argument) for argument in arguments])
        notes.with_suffix(".changes").write_text("\n".join(changes.seen), "utf-8")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise AssertionError


def run(
    arguments: Sequence[object],
    place: Path,
    notes: Path,
    *,
    death: int | None = None,
    program: Program | None = None,
) -> Ended:
    """Run ``pcs`` as :func:`start` does, and wait for its end."""
    notes.with_suffix(".changes").unlink(missing_ok=True)
    return start(arguments, place, notes, death=death, program=program).wait()
