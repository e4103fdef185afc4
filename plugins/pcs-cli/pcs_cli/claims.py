"""Who writes to a folder, and what a command that died there leaves: the journal ``.DIR.pcs`` beside it.

A command notes what it makes before it makes it, so that the next one can remove it, as a database does with
its journal. The file is the lock, too, and is gone when the command ends.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcs_cli.locks import LockFile, lock_file
from pcs_cli.output import notice
from pcs_cli.own_files import is_own

LONGEST_NAME = 200
"""Bytes of a folder's name that its journal has in full."""
ENDING = re.compile(r"\.[a-z0-9]{1,8}")
"""Of the name of a file that comes along with a folder."""


@dataclass
class Claim:
    """The right to write to ``folder``, which one process at a time has."""

    folder: Path
    lock: LockFile
    made: tuple[Path, ...]
    """Parents that did not exist before, the innermost first."""
    finished: str | None = None
    """Set where the last command died after its folder was whole: what it had been told to note."""
    left: list[Path] = field(default_factory=list)
    """Finished pictures of drawings that died."""
    publishing: bool = False
    """Whether the folder's name is being given away: what stood there may lie under another one."""
    whole: bool = False
    """Whether this command has written the folder."""
    users: int = 0
    unfinished: set[Path] = field(default_factory=set)
    """What is being made, and is removed if this command ends before it is worth keeping."""

    def note(self, **facts: Any) -> None:
        """Write down what is about to happen; paths as :meth:`name` gives them."""
        self.lock.note(**facts)

    def name(self, path: Path) -> str:
        """Return ``path`` as the journal holds it."""
        return str(path.relative_to(self.folder.parent))

    def making(self, path: Path) -> None:
        """Note a file or folder that is removed if this command dies, or ends without :meth:`keeping` it."""
        self.unfinished.add(path)
        self.note(remove=self.name(path))

    def keeping(self, path: Path) -> None:
        """Note that ``path`` is worth keeping from now on."""
        self.note(keep=self.name(path))
        self.unfinished.discard(path)

    def remove(self, path: Path) -> None:
        """Remove a file or folder; if this command dies meanwhile, the next goes on with it."""
        if os.path.lexists(path):
            self.making(path)
            _remove(path)
        self.unfinished.discard(path)

    def temporary(self) -> Path:
        """Make a folder beside that of the claim, which does not outlive the command."""
        path = self.folder.with_name(f".{self.folder.name[:80]}.{uuid.uuid4().hex[:8]}")
        self.making(path)
        path.mkdir()
        return path


_CLAIMS: dict[Path, Claim] = {}
"""The claims of this process."""


def take(folder: Path) -> Claim:
    """Keep other commands out of ``folder`` until :func:`release`; one command may ask for it again.

    Raises
    ------
    InputError
        Another command is at work there; says which.
    OSError
        The parents of ``folder`` cannot be made, or not be written to.
    """
    claim = _CLAIMS.get(folder)
    if claim is None:
        made = missing_parents(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_file(journal(folder), folder)
        claim = Claim(folder, lock, made)
        claim.finished, claim.left = settle(folder, lock)
        lock.begin()
        if claim.left:
            claim.note(left=[claim.name(path) for path in claim.left])
        _CLAIMS[folder] = claim
    claim.users += 1
    return claim


def release(claim: Claim) -> None:
    """End a claim, with the parents that were made for it where nothing came into them."""
    claim.users -= 1
    if claim.users or _CLAIMS.pop(claim.folder, None) is None:
        return
    if (
        claim.publishing or claim.whole
    ):  # interrupted between two steps, or before its work was removed
        settle(claim.folder, claim.lock)
    for path in claim.unfinished:  # it failed, or was interrupted, between two steps
        _remove(path)
    claim.lock.close(remove=not claim.left)
    if not claim.folder.exists():
        remove_empty(claim.made)


def release_all() -> None:
    """End what is left of the claims of a command that ended."""
    for claim in list(_CLAIMS.values()):
        claim.users = 1
        release(claim)


def inspect(folder: Path) -> str | None:
    """Refuse a folder in which another command is at work, and remove what one that died left.

    Returns what a command noted whose folder was whole when it died, None otherwise.

    Raises
    ------
    InputError
        Another command is at work there; says which.
    """
    path = journal(folder)
    if folder in _CLAIMS or not path.exists():
        return None
    lock = lock_file(path, folder)
    finished, left = settle(folder, lock)
    lock.close(remove=finished is None and not left)
    return finished


def journal(folder: Path) -> Path:
    """Return the file that says what is going on in ``folder``."""
    name = folder.name
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return folder.with_name(f".{name}.pcs")


def settle(folder: Path, lock: LockFile) -> tuple[str | None, list[Path]]:
    """Bring what a command that died left beside ``folder`` to an end; what it had finished stays finished.

    Returns what it had noted of its work, if that is whole, and folders of finished pictures. What is done is
    read from the names on the disk, so that a death in here is mended by the next.
    """
    pending: dict[str, None] = {}
    drawn: list[str] = []
    published: dict[str, Any] = {}
    for line in lock.lines():
        match line:
            case {"remove": str(name)}:
                pending[name] = None
            case {"keep": str(name)}:
                pending.pop(name, None)
            case {"left": list(names)}:
                drawn += [name for name in names if isinstance(name, str)]
            case {"whole": str(), "ready": str(), "old": str(), "facts": str(), "works": list()}:
                published = line
    beside = _reader(folder)

    def remove(path: Path) -> None:
        lock.note(remove=str(path.relative_to(folder.parent)))
        _remove(path)

    finished = None
    if published:
        if (old := beside(published["old"])) and old.is_dir() and not folder.exists():
            os.replace(old, folder)
        finished = published["facts"] if published["whole"] == identity(folder) else None
        if finished is not None:
            ready, along = beside(published["ready"]), str(published.get("along", ""))
            if ready is not None and ENDING.fullmatch(along):
                bring_along(ready, folder, along)
            for name in (published["ready"], published["old"]):
                # one that is pending is known for a command's, and may be removed in parts already
                if (path := beside(name)) and path.is_dir() and name not in pending:
                    dispose(folder, path, remove)
            works = [name for name in published["works"] if isinstance(name, str)]
            pending |= dict.fromkeys(works)
    for path in filter(None, map(beside, pending)):
        _remove(path)
    left = [path for path in map(beside, drawn) if path and _has_pictures(path)]
    return finished, left


def bring_along(ready: Path, folder: Path, ending: str) -> None:
    """Name the file ``ready`` + ``ending``, if it is there, as ``folder`` with ``ending`` behind it."""
    if ending and (file := ready.with_name(ready.name + ending)).is_file():
        os.replace(file, folder.with_name(folder.name + ending))


def dispose(folder: Path, old: Path, remove: Callable[[Path], None]) -> None:
    """``remove`` what stood at ``folder`` and is ``old`` now; what no command wrote is kept, and said."""
    from pcs_cli.output_folder import free_name

    if is_own(old):
        remove(old)
        return
    kept = old
    if ".old" not in old.name:
        kept = free_name(folder, "old")
        os.replace(old, kept)
    notice(f"{folder} held files that pcs did not write: they are kept in {kept}")


def identity(path: Path) -> str:
    """Return a hash of a folder's names, sizes and manifests, whatever its own name; "" if there is none."""
    if not path.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        digest.update(os.fsencode(file.relative_to(path)) + b"\0")
        if file.is_file():
            digest.update(b"%d\0" % file.stat().st_size)
            if file.suffix == ".json":
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def missing_parents(path: Path) -> tuple[Path, ...]:
    """Return the parents of ``path`` that do not exist, the innermost first."""
    return tuple(parent for parent in path.parents if not parent.exists())


def remove_empty(folders: tuple[Path, ...]) -> None:
    """Remove these folders, the innermost first, as far as they are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # something is in it, or it is gone
            return


def _reader(folder: Path) -> Callable[[str], Path | None]:
    """Return what reads a name of the journal of ``folder``; None for one that is not beside the folder."""

    def beside(name: str) -> Path | None:
        parts = Path(name).parts
        if not parts or ".." in parts or not ours.fullmatch(parts[0]):
            return None  # a journal that somebody else wrote removes nothing else
        if len(parts) > 1 and (folder.parent / parts[0]).is_symlink():
            return None
        return folder.parent / name

    start = re.escape(folder.name)
    short = re.escape(folder.name[:80])
    ours = re.compile(rf"{start}\.(?:partial|old)(?:-\d+)?|\.{short}\.[0-9a-f]{{8}}", re.DOTALL)
    return beside


def _has_pictures(folder: Path) -> bool:
    """Return whether a drawing that died finished pictures; what it had not is removed."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    names = {path.name for path in folder.iterdir()}
    if not any(name[0].isdigit() and name.endswith(".png") for name in names):
        shutil.rmtree(folder, ignore_errors=True)
        return False
    for name in names:  # half-written, or a clip whose frames were not shown yet
        if name.startswith(".") or (name[0].isdigit() and f"{name.split('.')[0]}.png" not in names):
            (folder / name).unlink(missing_ok=True)
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
