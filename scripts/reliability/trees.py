"""What lies in a folder, to compare states of the disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

Tree = dict[str, str]
"""Relative name -> sha256 of the file, "" of a folder."""


def tree(folder: Path, *, contents: bool = True) -> Tree:
    """Return all names below ``folder``; those of files with their hash, or "file" without ``contents``."""
    return {
        str(path.relative_to(folder)): ""
        if path.is_dir()
        else (file_hash(path) if contents else "file")
        for path in sorted(folder.rglob("*"))
    }


def file_hash(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def difference(have: Tree, expected: Tree) -> str:
    """Return in a few words how a tree differs from the one expected, or an empty string."""
    more = sorted(set(have) - set(expected))
    less = sorted(set(expected) - set(have))
    other = sorted(name for name in set(have) & set(expected) if have[name] != expected[name])
    words = [
        (f"left {more[:4]}", more),
        (f"lacks {less[:4]}", less),
        (f"differs {other[:4]}", other),
    ]
    return "; ".join(text for text, names in words if names)
