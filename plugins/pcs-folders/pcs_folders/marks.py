"""Boxes, key points and concepts in the ``.json`` beside a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcs_core.data.marks import checked_marks
from pcs_core.data.subject import Concept
from pcs_core.errors import InputError, nearest
from pcs_core.small_files import inside, read_json
from pcs_folders.captions import COLUMNS
from pcs_folders.concepts import called

KEYS = ("boxes", "points", "concepts")


def read_marks(file: Path, concepts: Sequence[Concept]) -> dict[str, Any]:
    """Return what the file says; nothing where there is none.

    ``concepts`` in it are those that the picture shows, by name, noun or token.

    Raises
    ------
    InputError
        No JSON object, an unknown key, or a concept that there is none of.
    """
    if not file.is_file():
        return {}
    data = read_json(inside(file.parent, file.name, file.parent))
    if not isinstance(data, dict):
        raise InputError(f"{file} holds no JSON object with {' or '.join(KEYS)}")
    for key in data:
        if key not in KEYS:
            hint = nearest(key, KEYS) or f" (known: {', '.join(KEYS)})"
            if key in COLUMNS:
                hint = f": a caption lies beside its picture as {file.stem}.txt"
            raise InputError(f"{file}: unknown key {key!r}{hint}")
    listed = data.get("concepts")
    if isinstance(listed, list):
        data["concepts"] = [called(n, concepts) if isinstance(n, str) else n for n in listed]
    return checked_marks(data, [c.name for c in concepts], str(file))
