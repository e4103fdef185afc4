"""Counts the changes that a process makes to the names on a disk, and disturbs it right before one of them."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEATH, POWER, READ_ONLY = "death", "power", "read-only"
"""How a command is disturbed right before a change: it dies; the power goes with it, so that files lose what
was not synchronised, but not their names; the disk takes no change from then on."""
DIED = 77
"""Exit code of a process that died where it was told to."""

NAMES = {"os.rename": (0, 2), "os.remove": (0, 1), "os.mkdir": (0, 2), "os.rmdir": (0, 1)}
"""Audit event -> where its path and the descriptor of the folder of that path stand."""
LINKS = {"os.link": 1, "os.symlink": 1}
"""Audit event -> where the new name stands."""
MADE = os.O_CREAT | os.O_TRUNC
SWAP = "pcs.swap"
SYNCED = "PCS_TRIAL_SYNCED"
"""Names the file in which every process of a command notes what it brought to the disk."""


@dataclass
class DiskChanges:
    """The changes of names under ``root`` so far; right before number ``death`` the process is disturbed.

    A change is a rename, a removal, a new folder, or a file that is made or emptied.
    """

    root: Path
    death: int | None = None
    how: str = DEATH
    seen: list[str] = field(default_factory=list)
    synced: Path | None = None
    """Where it is noted what is on the disk, outside ``root``; needed for a power cut."""

    def watch(self) -> None:
        """Begin; there is no end, so it is called in a process of its own."""
        if self.synced is not None:
            self.synced.write_text("".join(note(file.stat()) for file in self.files()), "utf-8")
            os.environ[SYNCED] = str(self.synced)
            note_what_is_synchronised()
        sys.addaudithook(self.hook)

    def files(self) -> Iterator[Path]:
        """Yield the regular files below the root."""
        for place, _, names in os.walk(self.root):
            for name in names:
                path = Path(place, name)
                if path.is_file() and not path.is_symlink():
                    yield path

    def cut(self) -> None:
        """Take away what was not on the disk yet."""
        lines = self.synced.read_text("utf-8").splitlines() if self.synced else []
        notes = [tuple(map(int, line.split())) for line in lines]
        safe = {number: (size, changed) for number, size, changed in notes}
        for file in list(self.files()):
            about = file.stat()
            size, changed = safe.get(about.st_ino, (0, -1))
            if about.st_mtime_ns != changed:
                os.truncate(file, min(size, about.st_size))

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note one event of Python's audit."""
        place = changed_name(event, arguments)
        if place is None or not place.startswith(f"{self.root}{os.sep}"):
            return
        self.seen.append(f"{event} {place[len(str(self.root)) + 1 :]}")
        if self.death is None or len(self.seen) < self.death:
            return
        if self.how == READ_ONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), place)
        if self.how == POWER:
            self.death = None  # what follows is no command's
            self.cut()
        os._exit(DIED)


def note(about: os.stat_result) -> str:
    """Return the line that says that a file is on the disk as it is now: its number, bytes, time of change."""
    return f"{about.st_ino} {about.st_size} {about.st_mtime_ns}\n"


def note_what_is_synchronised() -> None:
    """From here on each ``os.fsync`` of this process adds a line to the file that ``SYNCED`` names."""
    plain, notes = os.fsync, os.environ[SYNCED]

    def fsync(handle: Any) -> None:
        plain(handle)
        line = note(os.stat(handle if isinstance(handle, int) else handle.fileno()))
        with open(
            notes, "a", encoding="utf-8"
        ) as file:  # a line is written whole, whoever else writes
            file.write(line)

    os.fsync = fsync


# a worker that a watched command started: it knows nothing of the other's hook
if SYNCED in os.environ:
    note_what_is_synchronised()


def changed_name(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Return the absolute name that an audit event changes, or None."""
    if event in NAMES:
        at, folder = NAMES[event]
        return absolute(arguments[at], arguments[folder] if len(arguments) > folder else -1)
    if event in LINKS:
        return absolute(arguments[LINKS[event]], -1)
    if event == SWAP:
        return absolute(arguments[0], -1)
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
        if flags & MADE:
            return absolute(arguments[0], -1)
    return None


def absolute(path: Any, folder: Any) -> str:
    """Return ``path``, relative to the open folder ``folder`` where that is one, from the root on."""
    text = os.fsdecode(path)
    if not os.path.isabs(text):
        inside = isinstance(folder, int) and folder >= 0
        text = os.path.join(os.readlink(f"/proc/self/fd/{folder}") if inside else os.getcwd(), text)
    return os.path.normpath(text)
