"""``--out``: checked before any work, filled at once when the work is complete."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pcs_cli.claims import Claim, bring_along, dispose, identity, inspect, release, take
from pcs_cli.output import notice
from pcs_cli.own_files import record
from pcs_core.errors import InputError, check_utf8


@dataclass(frozen=True, slots=True)
class Destination:
    """A folder that will appear whole. ``folder`` is absolute."""

    folder: Path
    overwrite: bool

    def take(self) -> Claim:
        """Keep other commands out, until :func:`pcs_cli.claims.release`.

        Raises
        ------
        InputError
            Another command is at work there, or wrote it since it was looked at, or the folder's parents
            cannot be made.
        """
        try:
            claim = take(self.folder)
            ours = claim.users > 1 or claim.finished is not None or claim.whole
            if not (ours or self.overwrite) and self.taken():
                release(claim)
                raise InputError(
                    f"{self.folder} was written by another command meanwhile: give another folder, or "
                    "--overwrite to replace it"
                )
            return claim
        except OSError as error:
            raise self._unwritable(error) from error

    def taken(self) -> bool:
        """Return whether something is there."""
        return self.folder.exists() and any(self.folder.iterdir())

    @contextmanager
    def claimed(self) -> Iterator[Claim]:
        """Keep other commands out for the duration.

        Raises
        ------
        InputError
            As :meth:`take`.
        """
        claim = self.take()
        try:
            yield claim
        except KeyboardInterrupt:
            if claim.users == 1 and not claim.whole:
                notice(f"interrupted before {self.folder} was written: give the same command again")
            raise
        finally:
            release(claim)

    @contextmanager
    def filling(self, along: str = "") -> Iterator[Path]:
        """Give the path of a folder to make and fill; on success it becomes the destination.

        A file beside it that is named as the folder with ``along`` behind it, as ``.json``, comes along.

        Raises
        ------
        InputError
            It cannot be written, as on a full disk, or another command is at work there.
        """
        with self.claimed() as claim:
            try:
                temporary = claim.temporary()
                try:
                    yield temporary / "ready"
                    self.publish(temporary / "ready", along=along)
                finally:
                    if not claim.publishing:  # else what stood there may be in it
                        shutil.rmtree(temporary, ignore_errors=True)
            except OSError as error:
                raise self._unwritable(error) from error

    def publish(
        self, ready: Path, *, facts: str = "", works: Iterable[Path] = (), along: str = ""
    ) -> None:
        """Give the complete folder ``ready`` the destination's name, and so for the file ``along``, if any.

        What was there is removed if all of it was written by a command, else kept under another
        name. What another program wrote there meanwhile stays, and ``ready`` is kept beside it. If the command
        dies right after, the next is told ``facts`` and removes ``works``.

        Raises
        ------
        InputError
            Something is there by now, and nothing may be overwritten; says where this work is kept.
        """
        from pcs_core.storage.durable import exchange

        with self.claimed() as claim:
            taken = self.taken()
            if taken and not self.overwrite:
                kept = free_name(self.folder, "new")
                os.replace(ready, kept)
                bring_along(ready, kept, along)
                raise InputError(
                    f"{self.folder} was written by another command meanwhile: what this one made is "
                    f"in {kept}"
                )
            record(ready)
            write_through(ready, along)
            old = free_name(self.folder, "old")
            claim.note(
                whole=identity(ready),
                ready=claim.name(ready),
                old=claim.name(old),
                facts=facts,
                works=[claim.name(work) for work in works],
                along=along,
            )
            claim.publishing = True
            if not taken:
                if self.folder.exists():
                    self.folder.rmdir()
                os.replace(ready, self.folder)
                bring_along(ready, self.folder, along)
            elif exchange(ready, self.folder):
                bring_along(ready, self.folder, along)
                dispose(self.folder, ready, claim.remove)
            else:  # the journal says what a death between the two needs
                os.replace(self.folder, old)
                os.replace(ready, self.folder)
                bring_along(ready, self.folder, along)
                dispose(self.folder, old, claim.remove)
            claim.publishing, claim.whole = False, True
            self._sort_drawn(claim)

    def _sort_drawn(self, claim: Claim) -> None:
        """Remove pictures of drawings that died if the destination holds the same, else say where they are."""
        for left in claim.left:
            if not left.is_dir():
                continue
            files = [path for path in left.iterdir() if not path.name.startswith(".")]
            if all(same_file(path, self.folder / path.name) for path in files):
                claim.remove(left)
            else:
                notice(f"finished pictures of a drawing that was ended are kept in {left}")
        claim.left = []

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"cannot write {self.folder}: {error.strerror or error}")


def write_through(ready: Path, along: str) -> None:
    """Make the system write all of ``ready`` to disk, so that a power cut finds no name without its content."""
    from pcs_core.storage.durable import sync

    for place, _, names in os.walk(ready):
        for path in (*(Path(place, name) for name in names), Path(place)):
            if not path.is_symlink():
                sync(path)
    if along and (file := ready.with_name(ready.name + along)).is_file():
        sync(file)


def same_file(one: Path, other: Path) -> bool:
    """Return whether two names are files of the same bytes."""
    return other.is_file() and one.is_file() and filecmp.cmp(one, other, shallow=False)


def destination(
    out: Path, *, overwrite: bool, inputs: Iterable[Path] = (), resume: bool = False
) -> Destination:
    """Check ``--out`` and return it. ``inputs`` are what must not be replaced.

    What a command that died left there is removed. Where its result was whole, ``resume`` accepts that.

    Raises
    ------
    InputError
        It is taken, in use, or cannot be made; the message says what to do.
    """
    try:
        folder = out.expanduser().resolve()
        check_utf8(folder, what="--out")
        whole = folder.name != "" and inspect(folder) is not None
        _check(
            folder,
            out,
            overwrite or (whole and resume),
            [path.expanduser().resolve() for path in inputs],
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--out {out}: {reason}: give another folder") from error
    return Destination(folder, overwrite)


def _check(folder: Path, out: Path, overwrite: bool, inputs: list[Path]) -> None:
    if not folder.name:
        raise InputError(
            f"--out {out} is not a folder that can be replaced: give the name of a new one"
        )
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


def free_name(folder: Path, ending: str) -> Path:
    """Return a name beside ``folder`` that is not taken: ``<name>.<ending>``, ``<name>.<ending>-2`` ..."""
    number = 1
    while True:
        path = folder.with_name(f"{folder.name}.{ending}" + (f"-{number}" if number > 1 else ""))
        if not path.exists():
            return path
        number += 1
