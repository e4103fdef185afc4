"""Where what can be made again lies among a user's files."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "PCS_CACHE"
"""Environment variable: the folder for what can be made again, in place of the user's cache folder."""


def cache_folder() -> Path:
    """Return the folder in which this user's facts lie that can be made again."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "pcs"


def write_cached(file: Path, text: str) -> None:
    """Write ``file`` whole; other processes may do the same.

    Raises
    ------
    OSError
        It cannot be written.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_text(text, "utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
