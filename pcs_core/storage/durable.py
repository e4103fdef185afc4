"""Writing so that a crash or a full disk leaves the old or the new, never a half.

What a process that died left beside is removed by the next that writes into that folder: names of temporaries
say who makes them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MADE = re.compile(
    r"\.(?P<name>.+)\.pcs-(?P<where>[0-9a-f]{8})-(?P<process>[0-9a-f]+)-[0-9a-f]{8}(?P<old>-old)?"
)
"""Names of temporaries: of what, where and by which process they were made, and whether they are the old."""
DAY = 86_400.0
"""Seconds after which a temporary of another machine is taken for left."""


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; on success it takes ``path``'s place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left(path.parent)
    temporary = _beside(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder`` to fill; on success it takes ``folder``'s place."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_left(folder.parent)
    temporary = _beside(folder)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        _swap(temporary, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Make the system write ``path``, a file or a folder, to disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exchange(one: Path, other: Path) -> bool:
    """Let two names of one file system change places at once; False where the system cannot do that."""
    if sys.platform not in ("linux", "darwin"):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    library = ctypes.CDLL(None, use_errno=True)
    sys.audit("os.rename", *names, -1, -1)  # as Python's own renames do
    try:
        if sys.platform == "linux":  # renameat2(2): from the current folder, RENAME_EXCHANGE
            return bool(library.renameat2(-100, names[0], -100, names[1], 2) == 0)
        return bool(library.renamex_np(*names, 2) == 0)  # rename(2) of macOS: RENAME_SWAP
    except AttributeError:  # a C library that is older
        return False


def remove_left(folder: Path) -> None:
    """Remove temporaries in ``folder`` whose makers died; what one was about to replace gets its name back."""
    for entry in folder.iterdir():
        made = MADE.fullmatch(entry.name)
        if made is None or not _is_left(entry, made["where"], int(made["process"], 16)):
            continue
        with suppress(OSError):
            if made["old"] and not (place := entry.with_name(made["name"])).exists():
                os.replace(entry, place)
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _swap(new: Path, folder: Path) -> None:
    """Give ``new`` the name ``folder``; what had it before is removed, or has the name of ``new``."""
    if not folder.exists():
        os.replace(new, folder)
        return
    if exchange(new, folder):
        return
    old = _beside(folder, "-old")
    os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, ending: str = "") -> Path:
    # a leading dot: listings of folders of artifacts do not show it
    name = path.name if ending else path.name[:100]
    return path.with_name(f".{name}.pcs-{_where()}-{os.getpid():x}-{uuid.uuid4().hex[:8]}{ending}")


def _where() -> str:
    """Return in which machine, or container, the number of a process means something."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{socket.gethostname()}\0{space}".encode()).hexdigest()[:8]


def _is_left(entry: Path, where: str, process: int) -> bool:
    if where == _where() and os.name != "nt":  # there, asking is a signal
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False
    with suppress(OSError):
        return time.time() - entry.stat().st_mtime > DAY
    return False
