"""Which weights these are, and whether they are those that were shipped: digests that need no torch."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from pcs_core.errors import InputError
from pcs_core.small_files import read_text

SUMS = Path(__file__).parent / "shipped.sha256"
"""Of what this package ships, as ``sha256sum`` writes it; `scripts/shipped_sums.py` makes it."""


def weights_sha256(folder: Path) -> str:
    """One digest over the safetensors files of the parts that draw, in the order of their paths."""
    digest = hashlib.sha256()
    for part in ("text_encoder", "unet", "vae"):
        for path in sorted((folder / part).glob("*.safetensors")):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def check_shipped(folder: Path) -> None:
    """Compare the files of a shipped folder with what was shipped, once in a process.

    Raises
    ------
    InputError
        One is missing or another: names it.
    """
    root = SUMS.parent
    here = folder.relative_to(root).as_posix()
    for line in read_text(SUMS).splitlines():
        expected, _, name = line.partition("  ")
        if not name.startswith(f"{here}/"):
            continue
        file = root / name
        if not file.is_file():
            raise InputError(f"{file} is missing: reinstall pcs-mini")
        with file.open("rb") as opened:
            actual = hashlib.file_digest(opened, "sha256").hexdigest()
        if actual != expected:
            raise InputError(f"{file} is not the file that was shipped: reinstall pcs-mini")
