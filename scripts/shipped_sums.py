"""Write the hashes of the weights and archives that are shipped, which are compared whenever they are opened.

    python scripts/shipped_sums.py

Run after new weights or archives were put there; a test says when they are forgotten.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pcs_mini.digest import SUMS
from pcs_mini.world.assets import SLICE_FILE, installed_archive

SHIPPED = ("weights", "metrics/weights")
"""Folders of the package whose files are listed."""
ARCHIVES = (SLICE_FILE, installed_archive())
"""Each has a list of its own beside it."""


def sums() -> str:
    """Return a line for each shipped file, as ``sha256sum`` writes it."""
    root = SUMS.parent
    files = sorted(p for part in SHIPPED for p in (root / part).rglob("*") if p.is_file())
    return "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(root).as_posix()}\n"
        for file in files
        if "__pycache__" not in file.parts
    )


def main() -> None:
    """Write the file."""
    Path(SUMS).write_text(sums(), encoding="utf-8")
    for archive in filter(None, ARCHIVES):
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        archive.with_name(SUMS.name).write_text(f"{digest}  {archive.name}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
