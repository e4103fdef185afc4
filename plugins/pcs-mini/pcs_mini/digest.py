"""Which weights these are: a digest that needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path


def weights_sha256(folder: Path) -> str:
    """One digest over the safetensors files of the parts that draw, in the order of their paths."""
    digest = hashlib.sha256()
    for part in ("text_encoder", "unet", "vae"):
        for path in sorted((folder / part).glob("*.safetensors")):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
