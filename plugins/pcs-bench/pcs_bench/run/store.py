"""One folder of a benchmark: the protocol, a line per cell, and pictures by content hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_bench.run.documents import read_cell, read_line, read_protocol
from pcs_cli import lock_file
from pcs_core.errors import InputError
from pcs_core.small_files import inside, read_bytes, read_json

if TYPE_CHECKING:
    from torch import Tensor

PROTOCOL, CELLS, SETS, LOCK = "run.json", "cells.jsonl", "sets.json", ".lock"
OURS = {PROTOCOL, CELLS, LOCK, "suite.toml"}
"""Files of which one lies in every folder that is not empty and a benchmark's."""
MOST_LINES = 2**28
"""Bytes of the protocol and of the lines: a kilobyte for each of 100,000 cells, and more."""


@dataclass(frozen=True, slots=True)
class Store:
    """What lies in the folder of a benchmark. Every file appears whole or not at all."""

    folder: Path

    def picture(self, key: str) -> Path:
        """Return where the picture of a cell lies."""
        return self.folder / "pictures" / key[:2] / f"{key}.png"

    def fit(self, key: str) -> Path:
        """Return where the artifact of a fit lies; beside it ``<key>.json`` and ``<key>.work``."""
        return self.folder / "fits" / key

    def references(self, subject: str) -> Path:
        """Return the folder of a subject's references as the backbone saw them."""
        return inside(self.folder / "references", subject, "the suite")

    def read_picture(self, key: str, sha256: str = "") -> Tensor | None:
        """Return the picture [3 h w] in [0, 1], or None if it is missing, damaged or another one."""
        from pcs_core import PcsError, read_planes

        path = self.picture(key)
        try:
            if sha256 and file_hash(path) != sha256:
                return None
            return read_planes(path)[0]
        except (PcsError, OSError):
            return None

    def write_picture(self, key: str, picture: Tensor) -> None:
        """Write a picture [3 h w] in [0, 1].

        Raises
        ------
        InputError
            It holds nan, or cannot be written.
        """
        from pcs_core import write_png

        write_png(picture, self.picture(key))

    def cells(self) -> dict[str, dict[str, Any]]:
        """Return the last line of each cell by its key. A line that a kill cut off is passed over."""
        return read_lines(inside(self.folder, CELLS, self.folder), read_cell)

    def protocol(self) -> dict[str, Any]:
        """Return the protocol of the last run.

        Raises
        ------
        InputError
            The folder holds no benchmark, or its protocol is damaged.
        """
        path = self.folder / PROTOCOL
        if not path.exists():
            raise InputError(
                f"{self.folder} holds no benchmark: give a folder made by `pcs bench run`"
            )
        document = read_json(inside(self.folder, PROTOCOL, self.folder), most=MOST_LINES)
        return read_protocol(document, path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run out of the folder for the duration. The system lets go after a kill.

        Raises
        ------
        InputError
            Another run is at work here, or the folder holds something else, or cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = {path.name for path in self.folder.iterdir()}
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"--out {self.folder}: {why}: give another folder") from error
        if names and not names & OURS:
            raise InputError(f"--out {self.folder} holds something else: give another folder")
        lock = lock_file(self.folder / LOCK, self.folder)
        try:
            lock.begin()
            yield
        finally:
            lock.close(remove=False)

    @contextlib.contextmanager
    def appending(self, name: str = CELLS) -> Iterator[Appender]:
        """Give what adds lines to ``cells.jsonl`` or another; a half line at its end is cut off first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        cut_half_line(path)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            yield Appender(handle)
        finally:
            os.close(handle)


@dataclass(frozen=True, slots=True)
class Appender:
    """Adds whole lines, each on disk before the next thing happens."""

    handle: int

    def add(self, line: Mapping[str, Any]) -> None:
        """Write one line."""
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        os.write(self.handle, text.encode())
        os.fsync(self.handle)


def read_lines(
    path: Path, read: Callable[[bytes], dict[str, Any] | None] = read_line
) -> dict[str, dict[str, Any]]:
    """Return the last line of each ``key`` in a file of JSON lines, in order of first sight.

    ``read`` returns a line's data, or None for one to pass over.

    Raises
    ------
    InputError
        It is no regular file, or larger than any that a run writes.
    """
    lines: dict[str, dict[str, Any]] = {}
    if path.exists():
        for text in read_bytes(path, most=MOST_LINES).split(b"\n"):
            if text and (line := read(text)) is not None:
                lines[line["key"]] = line
    return lines


def cut_half_line(path: Path) -> None:
    """Remove what a kill left of a line at the end of ``path``."""
    if not path.exists():
        return
    content = read_bytes(path, most=MOST_LINES)
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))


def write_json(path: Path, data: Any) -> None:
    """Write JSON whole, or not at all."""
    write_bytes(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, or not at all.

    Raises
    ------
    InputError
        It cannot be written, as on a full disk.
    """
    from pcs_core.storage.durable import replacing_file

    try:
        with replacing_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder to a name that is free, whole or not at all.

    Raises
    ------
    InputError
        It cannot be read or written.
    """
    from pcs_core.storage.durable import replacing_folder

    try:
        with replacing_folder(target) as copied:
            shutil.copytree(source, copied, copy_function=shutil.copyfile, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot copy {source} to {target}: {why}") from error


def file_hash(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
