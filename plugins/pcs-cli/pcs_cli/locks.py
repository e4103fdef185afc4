"""A file that one process at a time holds, and that says who that is."""

from __future__ import annotations

import json
import os
import shlex
import stat
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pcs_cli.output import notice
from pcs_core.errors import InputError

COMMAND: ContextVar[str] = ContextVar("COMMAND", default="")
"""The command line that runs."""
LONGEST = 200
"""Characters of a command line that are shown."""
LARGEST = 1_000_000
"""Bytes of such a file that are read."""


def note_command(words: Sequence[str]) -> None:
    """Note the command line of this process, for those that meet its locks."""
    COMMAND.set(shlex.join(["pcs", *words]))


@dataclass
class LockFile:
    """A file with a line of JSON for each thing that is noted; the system lets go of it after a death."""

    path: Path
    file: IO[bytes]

    def note(self, **facts: Any) -> None:
        """Add a line, which is on the disk before anything else happens."""
        os.write(self.file.fileno(), (json.dumps(facts) + "\n").encode())
        os.fsync(self.file.fileno())

    def begin(self) -> None:
        """Forget what an earlier process noted, and say who is at work."""
        self.file.truncate(0)
        self.note(process=os.getpid(), command=COMMAND.get())

    def lines(self) -> list[dict[str, Any]]:
        """Return what is noted, without a line that a death cut off."""
        return read_lines(self.path)

    def close(self, *, remove: bool) -> None:
        """Let go of the file, which is removed or stays."""
        if remove:
            self.path.unlink(missing_ok=True)
        self.file.close()


def lock_file(path: Path, place: Path) -> LockFile:
    """Make or open the file ``path``, and keep others out of ``place`` as long as it is open.

    Raises
    ------
    InputError
        Another process is at work there: says which, and its command.
    OSError
        The file cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    while True:
        file = os.fdopen(os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o644), "ab")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise InputError(f"{path} is no file: remove it, or give another folder than {place}")
        try:
            _lock(file, place)
        except BlockingIOError:
            file.close()
            raise InputError(
                f"{at_work(path)} is at work in {place}: wait for it, or end it"
            ) from None
        try:
            same = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            same = False
        if same:
            return LockFile(path, file)
        file.close()  # whoever had it has removed it meanwhile


def at_work(path: Path) -> str:
    """Return which command holds the lock file ``path``, in words."""
    first = next(iter(read_lines(path)), {})
    process, command = first.get("process"), str(first.get("command", ""))
    if not isinstance(process, int):
        return "another command"
    shown = command if len(command) <= LONGEST else f"{command[:LONGEST]}..."
    return f"another command (process {process}{f': {shown}' if shown else ''})"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file of JSON lines; what is none is passed over."""
    rows = []
    with path.open("rb") as file:
        content = file.read(LARGEST)
    for line in content.split(b"\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _lock(file: IO[bytes], place: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two commands into one folder are the user's business
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        notice(
            f"no locks here ({error.strerror}): let no second command write to {place} meanwhile"
        )
