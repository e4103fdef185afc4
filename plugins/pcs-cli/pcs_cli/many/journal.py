"""What became of each fit of a queue, a line each as it happens: a kill loses no line that was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcs_core.errors import InputError
from pcs_core.small_files import read_bytes
from pcs_core.storage.durable import sync

FILE = "fit-many.jsonl"
MOST = 2**28
"""Bytes of a journal that are read: half a million fits."""
BEGUN, DONE, FAILED = "begun", "done", "failed"


def digest(facts: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of all that decides the result of a fit."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Journal:
    """The journal in the folder of the results: the last word on each fit, by its name.

    Raises
    ------
    InputError
        It is a link, or no regular file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.last: dict[str, dict[str, Any]] = {}
        if self.path.is_symlink():
            raise InputError(f"{self.path} is a link: nothing is written through it, remove it")
        if self.path.exists():
            self._read()

    def begin(self) -> None:
        """Make the folder, known as this command's before anything else is in it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
        sync(self.path.parent)

    def _read(self) -> None:
        """Read what was written whole. A line that a kill cut off says nothing, and is ended."""
        data = read_bytes(self.path, most=MOST)
        for row in data.splitlines():
            try:
                said = json.loads(row)
                self.last[said["name"]] = said
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        if data and not data.endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")

    def note(self, name: str, state: str, facts: str, **more: Any) -> None:
        """Write what became of a fit; when this returns it is on the disk."""
        said = {"name": name, "state": state, "facts": facts, **more}
        with self.path.open("ab") as file:
            file.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.last[name] = said

    def finished(self, name: str, facts: str, artifact: Path) -> bool:
        """Return whether this very fit is over: its artifact, which appears whole, is there."""
        said = self.last.get(name)
        return bool(said and said.get("facts") == facts and (artifact / "manifest.json").is_file())
