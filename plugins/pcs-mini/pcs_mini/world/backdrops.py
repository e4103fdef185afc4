"""The places of the world: plain colours, painted scenes, and panoramas looked into at any yaw."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pcs_core.errors import nearest
from pcs_mini.world import places
from pcs_mini.world.assets import Assets, AssetsError, Pixels
from pcs_mini.world.places import COLOURS
from pcs_mini.world.scenery import SCENERY
from pcs_mini.world.scenery import paint as paint_scenery

SCENES: dict[str, str] = {**places.SCENES, **SCENERY}
"""Painted place -> how a caption says it."""

FIELDS_OF_VIEW = (65.0, 75.0, 85.0)
PITCHES = (-6.0, -10.0, -14.0)
"""Degrees; subjects stand well with the floor in the lower third."""


PANORAMAS_FILE = Path(__file__).parent / "build" / "panoramas.toml"


@cache
def panoramas() -> dict[str, str]:
    """Panorama -> how a caption says it, from the table that the archive is built from."""
    table = tomllib.loads(PANORAMAS_FILE.read_text(encoding="utf-8"))
    return {place: row["phrase"] for place, row in table.items() if "phrase" in row}


def phrase(place: str) -> str:
    """How a caption says that something is at `place`; an unlisted one is ``in the <place>``."""
    if place in COLOURS:
        return f"on {'an' if place[0] in 'aeiou' else 'a'} {place} background"
    return SCENES.get(place) or panoramas().get(place) or f"in the {place}"


def known(assets: Assets) -> tuple[str, ...]:
    """Every place of the world: colours, scenes and panoramas."""
    return (*COLOURS, *SCENES, *assets.panoramas)


def paint(place: str, rng: np.random.Generator, size: int, assets: Assets) -> Pixels:
    """The empty place, ``[size, size, 3]``."""
    if place in assets.panoramas:
        source = assets.panorama(place)
        fov = FIELDS_OF_VIEW[rng.integers(len(FIELDS_OF_VIEW))]
        pitch = PITCHES[rng.integers(len(PITCHES))]
        return look(source, rng.random() * 360, pitch, fov, size)
    if place in SCENERY:
        return paint_scenery(place, rng, size)
    if place in COLOURS or place in places.SCENES:
        return places.paint(place, rng, size).astype(np.uint8)
    raise AssetsError(f"no place {place!r} in the world{nearest(place, known(assets))}")


def look(source: Pixels, yaw: float, pitch: float, fov: float, size: int) -> Pixels:
    """A view ``[size, size, 3]`` into an equirectangular picture; angles in degrees.

    The rays of a pitch and a field of view are worked out once; a yaw only shifts them, by whole
    pixels of the source.
    """
    height, width = source.shape[:2]
    row, column, corners = _rays(pitch, fov, size, height, width)
    shift = round(yaw / 360 * width)
    flat = source.reshape(-1, 3)
    left = (column + shift) % width
    right = (left + 1) % width
    below = np.minimum(row + 1, height - 1) * width
    above = row * width
    mixed = np.zeros((size * size, 3), np.float32)
    for at, share in zip(
        (above + left, above + right, below + left, below + right), corners, strict=True
    ):
        mixed += flat[at] * share
    return (mixed + 0.5).astype(np.uint8).reshape(size, size, 3)


@cache
def _rays(
    pitch: float, fov: float, size: int, height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Source row and column ``[size * size]`` at yaw 0, and the shares of the four neighbours."""
    across = (np.arange(size) + 0.5) / size - 0.5
    x, y = np.meshgrid(across, -across)
    z = np.full_like(x, 0.5 / np.tan(np.radians(fov) / 2))
    cos, sin = np.cos(np.radians(pitch)), np.sin(np.radians(pitch))
    y, z = y * cos + z * sin, z * cos - y * sin
    up = np.arcsin(y / np.sqrt(x * x + y * y + z * z))
    v = np.clip((0.5 - up / np.pi) * height - 0.5, 0, height - 1).ravel()
    u = ((np.arctan2(x, z) / (2 * np.pi) + 0.5) * width - 0.5).ravel()
    row, column = np.floor(v).astype(np.int64), np.floor(u).astype(np.int64)
    dv, du = v - row, u - column
    shares = np.stack([(1 - dv) * (1 - du), (1 - dv) * du, dv * (1 - du), dv * du])
    return row, column, shares[..., None].astype(np.float32)
