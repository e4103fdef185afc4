"""Runs ``pcs`` in forked processes: warm, so that a command takes a fraction of a second."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reliability.disk_changes import DEATH, DiskChanges

PIPE = 1 << 20
"""Bytes that a command may print."""
Program = Callable[[list[str]], int]
"""What is given the words of a command, and returns its exit code."""
LIMIT = 180.0
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code, or minus the signal."""
    out: str
    err: str
    seconds: float
    changes: tuple[str, ...] = ()
    """Its changes of names, if it came to its end."""
    hung: bool = False
    peak: int = 0
    """Bytes of memory that it held at most, with what it shares with the process that started it."""

    @property
    def traceback(self) -> bool:
        """Whether it showed the inside of the program."""
        return "Traceback (most recent" in self.err or "internal error" in self.err


@dataclass
class Running:
    """A command at work."""

    pid: int
    notes: Path
    pipes: tuple[int, int]
    began: float
    peak: int = 0

    def send(self, number: int) -> None:
        """Send a signal to it and to the processes that it started, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def rest(self, seconds: float) -> None:
        """Wait until it has run for so long."""
        time.sleep(max(0.0, seconds - (time.monotonic() - self.began)))

    def poll(self) -> int | None:
        """Return the exit code of a command that ended; it is asked no more after that."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        self.peak = usage.ru_maxrss * 1024
        return os.waitstatus_to_exitcode(status)

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
        seconds = time.monotonic() - self.began
        self.send(signal.SIGKILL)  # what it started and left
        path = self.notes.with_suffix(".changes")
        changes = tuple(path.read_text("utf-8").splitlines()) if path.exists() else ()
        out, err = map(_read, self.pipes)
        return Ended(code, out, err, seconds, changes, hung, self.peak)


def _read(pipe: int) -> str:
    with os.fdopen(pipe, "rb", buffering=0) as file:
        return (file.read(PIPE) or b"").decode("utf-8", "replace")


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
    how: str = DEATH,
    program: Program | None = None,
) -> Running:
    """Start ``pcs`` with ``arguments`` in the folder ``place``; disturbed before change ``death`` of names
    there, as ``how`` says.

    Its changes of names go to a file named after ``notes``. ``program`` stands in for ``pcs``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pipes = [os.pipe(), os.pipe()]  # no files: a full disk is none for them
    for reader, writer in pipes:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE)
        os.set_blocking(reader, False)
    began = time.monotonic()
    pid = os.fork()
    if pid:
        for _, writer in pipes:
            os.close(writer)
        return Running(pid, notes, (pipes[0][0], pipes[1][0]), began)
    code, has_begun = 70, False
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for (_, writer), number in zip(pipes, (1, 2), strict=True):
            os.dup2(writer, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        os.chdir(place)
        os.environ["XDG_CACHE_HOME"] = str(notes.parent / "cache")
        changes = DiskChanges(place.resolve(), death, how, synced=notes.with_suffix(".synced"))
        changes.watch()
        if program is None:
            from pcs_cli.main import main as program
        has_begun = True
        code = program([str(argument) for argument in arguments])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the command is over
        notes.with_suffix(".changes").write_text("\n".join(changes.seen), "utf-8")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not has_begun:
            code = 130  # it came before the command, which says no word of it
        else:
            with contextlib.suppress(BaseException):
                traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):  # it may be closed
                stream.flush()
        os._exit(code)
    raise AssertionError


def run(
    arguments: Sequence[object],
    place: Path,
    notes: Path,
    *,
    death: int | None = None,
    how: str = DEATH,
    program: Program | None = None,
) -> Ended:
    """Run ``pcs`` as :func:`start` does, and wait for its end."""
    notes.with_suffix(".changes").unlink(missing_ok=True)
    return start(arguments, place, notes, death=death, how=how, program=program).wait()
