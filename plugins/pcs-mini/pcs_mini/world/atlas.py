"""The packed drawings: one zip of lossless WebP sprites and an index of where each came from."""

from __future__ import annotations

import io
import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from pcs_mini.world.roster import roster

ATLAS_FILE = Path(__file__).parent / "atlas.zip"
SPRITE_PX = 128


class AtlasError(LookupError):
    """A drawing that the atlas does not hold, or no atlas at all."""


@cache
def _archive() -> tuple[dict[str, bytes], dict[str, Any]]:
    if not ATLAS_FILE.exists():
        raise AtlasError(f"no atlas at {ATLAS_FILE}: make it with `pcs mini pack`")
    with zipfile.ZipFile(ATLAS_FILE) as archive:
        index = json.loads(archive.read("index.json"))
        return {name: archive.read(name) for name in archive.namelist()}, index


def index() -> dict[str, Any]:
    """Package, version, licence and sha256 of every icon set in the atlas."""
    return _archive()[1]


@cache
def sprite(noun: str, style: str) -> Image.Image:
    """The drawing of `noun` in `style`, cropped to what is visible (RGBA, longest side <= 128)."""
    people = roster()
    files, _ = _archive()
    try:
        name = f"{people.all_styles[style]}/{people.all_nouns[noun]}.webp"
        data = files[name]
    except KeyError as missing:
        raise AtlasError(
            f"the atlas {ATLAS_FILE.name} has no {style!r} {noun!r} ({missing}): add it to "
            "world/holdout.toml and run `pcs mini pack`"
        ) from None
    return Image.open(io.BytesIO(data)).convert("RGBA")


def holds(noun: str, style: str) -> bool:
    """Whether the atlas has this noun in this style (not every set draws every class)."""
    try:
        sprite(noun, style)
    except AtlasError:
        return False
    return True
