"""Where the pictures of a subject folder lie: in the folder itself, or in one sub-folder per concept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pcs_core.data.subject import Concept
from pcs_core.errors import InputError, check_utf8
from pcs_folders.images import SUFFIXES

MASK_FOLDERS = (*("mask", "masks", "conditioning", "masklabel", "masklabels", "matte", "mattes"),)
"""Names of folders beside the pictures that hold masks; ``conditioning`` is kohya's."""
_REPEATS = re.compile(r"^(?P<count>\d+)_(?P<words>.*[^\W\d_].*)$")


@dataclass(frozen=True, slots=True)
class Part:
    """A folder of pictures; ``concept`` is whom they show, or None where the folder does not say."""

    folder: Path
    concept: str | None = None
    note: str = ""
    repeats: int = 1
    """How often its pictures are drawn where those of another with 1 are drawn once."""


def visible(folder: Path) -> list[Path]:
    """Return the entries of a folder by name, without the hidden ones.

    Raises
    ------
    InputError
        The name of one is not UTF-8.
    """
    entries = sorted(folder.iterdir())
    check_utf8(*entries)
    return [p for p in entries if not p.name.startswith(".")]


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures that lie in ``folder``, whatever they are."""
    return [p for p in visible(folder) if p.suffix.lower() in SUFFIXES and p.is_file()]


def is_repeats(folder: Path) -> bool:
    """Return whether ``folder`` is named as kohya's trainers name theirs: ``10_sks dog``."""
    return _REPEATS.match(folder.name) is not None


def find_parts(entries: Sequence[Path], concepts: Sequence[Concept]) -> list[Part]:
    """Return the sub-folders that hold a concept's pictures each.

    They are named after the concept, its noun or its token, with repeats in front of it or not. Where there
    is one concept, any folder with repeats in its name is its own.

    Raises
    ------
    InputError
        A folder with repeats, of several concepts, that names none of them; one of no repeats.
    """
    parts = []
    for path in entries:
        if not path.is_dir() or path.name.lower() in MASK_FOLDERS or not pictures_in(path):
            continue
        repeats = _REPEATS.match(path.name)
        words = repeats["words"] if repeats else path.name
        owners = [c.name for c in concepts if _names(words, c, exactly=repeats is None)]
        if repeats is None and (len(owners) != 1 or len(concepts) == 1):
            continue  # of one concept, a folder without repeats may be a clip's frames
        if len(concepts) > 1 and len(owners) != 1:
            names = ", ".join(c.name for c in concepts)
            raise InputError(
                f"{path}: which concept is this? Name it after one of {names}, as "
                f"{repeats['count'] if repeats else 1}_{concepts[0].name}"
            )
        note, count = "", int(repeats["count"]) if repeats else 1
        if not count:
            raise InputError(f"{path}: repeats 0: move it away, or name it 1_{words}")
        if repeats is not None:
            note = (
                f"each is drawn {count} times as often as one of 1_{words}; "
                f"{words!r} is no caption: --token and --noun say what it is"
            )
        parts.append(Part(path, owners[0] if len(concepts) > 1 else None, note, count))
    return parts


def _names(words: str, concept: Concept, *, exactly: bool) -> bool:
    """Return whether a folder's words are a concept's, or among others hold its name, noun or token."""
    said = _plain(words)
    names = {_plain(concept.name), _plain(concept.noun), _plain(concept.token)} - {""}
    return said in names if exactly else any(f" {o} " in f" {said} " for o in names)


def _plain(words: str) -> str:
    return " ".join(re.findall(r"\w+", words.casefold().replace("_", " ")))
