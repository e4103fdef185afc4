"""Names of files that look alike are alike: Unicode's normal forms, which file systems mix."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize


def plain(name: str) -> str:
    """Return a name in the form in which names are compared (NFC): macOS writes another one (NFD)."""
    return normalize("NFC", name)


def sibling(image: Path, suffix: str) -> Path:
    """Return the file beside ``image`` with its stem and ``suffix``, in whichever form its name is written."""
    path = image.with_suffix(suffix)
    forms = (path, *(image.with_name(normalize(f, image.stem) + suffix) for f in ("NFC", "NFD")))
    return next((p for p in forms if p.exists()), path)
