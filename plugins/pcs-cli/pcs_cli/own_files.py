"""Which files in an ``--out`` a command wrote: all others are a user's, and are never removed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pcs_core.errors import InputError
from pcs_core.small_files import read_json
from pcs_core.storage.manifest import file_hash

NAMES = {
    "manifest.json": re.compile(
        r"manifest\.json|recipe\.toml|(weights|features)\.safetensors|preview\.png"
    ),
    "sample.json": re.compile(r"sample\.json|sheet\.png|\d{3,}\.png"),
}
"""A file by which an artifact or a drawing is known -> the names of all files of it."""
RECORD = ".pcs-files.json"
"""In other folders that a command wrote: the sha256 of each file, as exports name theirs as other tools do."""
FORMAT = 1
MOST_RECORD = 2**26
"""Bytes of a record: half a million files."""


def record(folder: Path) -> None:
    """Write down what is in ``folder``, which a command has just filled, where its names do not say it."""
    (folder / RECORD).unlink(missing_ok=True)
    if not known_by_name(folder):
        files = {name: file_hash(path) for name, path in files_below(folder)}
        text = json.dumps({"format": FORMAT, "files": files}, indent=1, ensure_ascii=True)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def is_own(folder: Path) -> bool:
    """Return whether everything in ``folder`` was written by a command, and is as it was written."""
    return known_by_name(folder) or known_by_record(folder)


def known_by_record(folder: Path) -> bool:
    """Return whether the record of ``folder`` names every file that is there, with its bytes."""
    if not (folder / RECORD).is_file():
        return False
    try:
        written: Any = read_json(folder / RECORD, most=MOST_RECORD)
        files = written["files"] if written["format"] == FORMAT else {}
        return bool(files) and all(
            path.is_file() and not path.is_symlink() and files[name] == file_hash(path)
            for name, path in files_below(folder)
        )
    except (InputError, OSError, KeyError, TypeError):
        return False  # then it is kept


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield each file and link below ``folder`` with its relative name, but for the record."""
    for place, folders, files in os.walk(folder):
        for name in (*files, *(one for one in folders if Path(place, one).is_symlink())):
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            if relative != RECORD:
                yield relative, path


def known_by_name(folder: Path) -> bool:
    """Return whether all names in ``folder`` are those of an artifact, of a drawing, or of several."""
    entries = list(folder.iterdir())
    for mark, names in NAMES.items():
        if (folder / mark).is_file():
            return all(
                names.fullmatch(entry.name) if entry.is_file() else is_along(entry)
                for entry in entries
            )
    # several subjects: one folder each
    return all(
        any((entry / mark).is_file() for mark in NAMES) and known_by_name(entry)
        for entry in entries
    )


def is_along(folder: Path) -> bool:
    """Return whether ``folder`` holds the artifacts along the way of a fit, and nothing else."""
    return folder.name == "steps" and all(
        (entry / "manifest.json").is_file() and known_by_name(entry) for entry in folder.iterdir()
    )
