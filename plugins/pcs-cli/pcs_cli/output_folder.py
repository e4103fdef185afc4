"""``--out``: checked before any work, filled at once when the work is complete."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pcs_cli.output import notice
from pcs_core.errors import InputError, check_utf8

OWN_FILES = re.compile(
    r"manifest\.json|recipe\.toml|weights\.safetensors|features\.safetensors|preview\.png"
    r"|sample\.json|sheet\.png|\d{3,}\.png"
)
"""Names of the files that the commands write."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A folder that will appear whole. ``folder`` is absolute."""

    folder: Path
    overwrite: bool

    @contextmanager
    def filling(self) -> Iterator[Path]:
        """Give the path of a folder to make and fill; on success it becomes the destination.

        Raises
        ------
        InputError
            It cannot be written, as on a full disk.
        """
        parent = self.folder.parent
        made = missing_parents(self.folder)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{self.folder.name[:80]}.", dir=parent))
            try:
                yield temporary / "ready"
                self.publish(temporary / "ready")
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
                remove_empty(made)
        except OSError as error:
            raise InputError(f"cannot write {self.folder}: {error.strerror or error}") from error

    def publish(self, ready: Path) -> None:
        """Give the complete folder ``ready`` the destination's name.

        What was there is removed if all of it was written by a command, else kept under another
        name. What another command wrote there meanwhile stays, and ``ready`` is kept beside it.

        Raises
        ------
        InputError
            Something is there by now, and nothing may be overwritten; says where this work is kept.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        old = None
        if self.folder.exists():
            if any(self.folder.iterdir()):
                if not self.overwrite:
                    kept = free_name(self.folder, "new")
                    os.replace(ready, kept)
                    raise InputError(
                        f"{self.folder} was written by another command meanwhile: what this one made is "
                        f"in {kept}"
                    )
                old = free_name(self.folder, "old")
                os.replace(self.folder, old)
            else:
                self.folder.rmdir()
        try:
            os.replace(ready, self.folder)
        except OSError:
            if old is not None:
                os.replace(old, self.folder)
            raise
        if old is None:
            return
        if is_own(old):
            shutil.rmtree(old, ignore_errors=True)
        else:
            notice(f"{self.folder} held files that pcs did not write: they are kept in {old}")


def destination(out: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> Destination:
    """Check ``--out`` and return it. ``inputs`` are what must not be replaced.

    Raises
    ------
    InputError
        It is taken, or cannot be made; the message says what to do.
    """
    try:
        folder = out.expanduser().resolve()
        check_utf8(folder, what="--out")
        _check(folder, out, overwrite, [path.expanduser().resolve() for path in inputs])
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--out {out}: {reason}: give another folder") from error
    return Destination(folder, overwrite)


def _check(folder: Path, out: Path, overwrite: bool, inputs: list[Path]) -> None:
    if not folder.name:
        raise InputError(f"--out {out} is no folder of its own: give the name of a new one")
    if folder.exists():
        if not folder.is_dir():
            raise InputError(f"--out {out} is a file: give the name of a folder")
        if any(folder.iterdir()) and not overwrite:
            raise InputError(
                f"--out {out} is not empty: give another folder, or --overwrite to replace it"
            )
        for guarded, what in [
            (Path.cwd(), "the current folder"),
            *((home, "your home folder") for home in _home()),
            *((path, f"the input {path}") for path in inputs),
        ]:
            if guarded == folder or folder in guarded.parents:
                raise InputError(f"--out {out} holds {what}: give the name of a new folder")
    parent = next(p for p in folder.parents if p.exists())
    if not parent.is_dir():
        raise InputError(f"--out {out}: {parent} is a file: give a folder elsewhere")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: {parent} is not writable: give a folder elsewhere")


def _home() -> list[Path]:
    try:
        return [Path.home().resolve()]
    except RuntimeError:  # a user without one
        return []


def missing_parents(path: Path) -> tuple[Path, ...]:
    """Return the parents of ``path`` that do not exist, the innermost first."""
    return tuple(parent for parent in path.parents if not parent.exists())


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove these folders, the innermost first, as far as they are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # something is in it, or it is gone
            return


def free_name(folder: Path, ending: str) -> Path:
    """Return a name beside ``folder`` that is not taken: ``<name>.<ending>``, ``<name>.<ending>-2`` ..."""
    number = 1
    while True:
        path = folder.with_name(f"{folder.name}.{ending}" + (f"-{number}" if number > 1 else ""))
        if not path.exists():
            return path
        number += 1


def is_own(folder: Path) -> bool:
    """Return whether everything in ``folder`` was written by a command."""
    entries = list(folder.iterdir())
    names = {entry.name for entry in entries}
    if {"manifest.json", "sample.json"} & names:
        return all(
            OWN_FILES.fullmatch(entry.name) if entry.is_file() else is_along(entry)
            for entry in entries
        )
    # several subjects: one artifact each
    return all(
        entry.is_dir() and (entry / "manifest.json").is_file() and is_own(entry)
        for entry in entries
    )


def is_along(folder: Path) -> bool:
    """Return whether ``folder`` holds the artifacts along the way of a fit, and nothing else."""
    return folder.name == "steps" and all(
        entry.is_dir() and (entry / "manifest.json").is_file() and is_own(entry)
        for entry in folder.iterdir()
    )
