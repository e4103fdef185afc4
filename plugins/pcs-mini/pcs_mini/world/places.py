"""Ten plain colours and eight simple scenes, painted from scratch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float64]
"""``[s, s, 3]``, 0..255."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49),
    "orange": (240, 140, 40),
    "yellow": (250, 214, 60),
    "green": (70, 170, 80),
    "blue": (60, 110, 215),
    "purple": (140, 80, 190),
    "pink": (245, 150, 190),
    "white": (245, 245, 245),
    "black": (35, 35, 38),
    "gray": (140, 142, 148),
}

SCENES: dict[str, str] = {
    "grass": "on the grass",
    "beach": "on the beach",
    "snow": "in the snow",
    "night": "in the night sky",
    "sunset": "at sunset",
    "ocean": "in the ocean",
    "brick": "in front of a brick wall",
    "table": "on a wooden table",
}


def _gradient(size: int, top: tuple[int, ...], bottom: tuple[int, ...]) -> Pixels:
    t = np.linspace(0, 1, size)[:, None, None]
    column = np.array(top) * (1 - t) + np.array(bottom) * t
    return np.broadcast_to(column, (size, size, 3)).copy()


def _flat(size: int, colour: tuple[int, ...], rng: np.random.Generator, spread: float) -> Pixels:
    return np.broadcast_to(np.array(colour) + rng.normal(0, spread, 3), (size, size, 3)).copy()


def _disc(size: int, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:size, :size]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def _grass(size: int, rng: np.random.Generator, u: float) -> Pixels:
    horizon = int(rng.integers(26, 36) * u)
    picture = _gradient(size, (150, 205, 250), (205, 232, 255))
    picture[horizon:] = np.array((96, 176, 72)) + rng.normal(0, 6, 3)
    cells = rng.random((64, 64)) < 0.18
    blades = cells[(np.arange(size) / u).astype(int)][:, (np.arange(size) / u).astype(int)]
    blades[: horizon + 1] = False
    picture[blades] = (70, 145, 55)
    return picture


def _beach(size: int, rng: np.random.Generator, u: float) -> Pixels:
    sea = int(rng.integers(20, 27) * u)
    sand = sea + int(rng.integers(8, 13) * u)
    picture = _gradient(size, (135, 206, 250), (200, 235, 255))
    picture[sea:sand] = np.array((40, 140, 200)) + rng.normal(0, 6, 3)
    picture[sand:] = np.array((238, 214, 160)) + rng.normal(0, 6, 3)
    return picture


def _snow(size: int, rng: np.random.Generator, u: float) -> Pixels:
    horizon = int(rng.integers(26, 36) * u)
    picture = _gradient(size, (165, 190, 215), (215, 228, 240))
    picture[horizon:] = (244, 248, 252)
    cells = rng.random((64, 64)) < 0.035
    flakes = cells[(np.arange(size) / u).astype(int)][:, (np.arange(size) / u).astype(int)]
    flakes[horizon:] = False
    picture[flakes] = 255
    return picture


def _night(size: int, rng: np.random.Generator, u: float) -> Pixels:
    picture = _gradient(size, (12, 16, 48), (36, 36, 88))
    cells = rng.random((64, 64)) < 0.02
    stars = cells[(np.arange(size) / u).astype(int)][:, (np.arange(size) / u).astype(int)]
    picture[stars] = (250, 250, 215)
    x, y = int(rng.integers(6, 58)), int(rng.integers(6, 14))
    picture[_disc(size, x * u, y * u, 4.2 * u)] = (245, 240, 200)
    return picture


def _sunset(size: int, rng: np.random.Generator, u: float) -> Pixels:
    picture = _gradient(size, (90, 50, 130), (255, 150, 70))
    horizon = int(rng.integers(42, 50) * u)
    x = int(rng.integers(12, 52)) * u
    picture[_disc(size, x, horizon, 9.5 * u)] = (255, 225, 110)
    picture[horizon:] = np.array((110, 45, 70)) + rng.normal(0, 6, 3)
    return picture


def _ocean(size: int, rng: np.random.Generator, u: float) -> Pixels:
    picture = _gradient(size, (60, 150, 215), (15, 60, 130))
    phase = rng.random() * 6
    rows, columns = np.mgrid[:size, :size]
    for row in range(4, 64, 9):
        wave = ((np.sin(columns / u / 5 + phase + row) * 1.5 + row) * u).round()
        picture[(rows >= wave) & (rows < wave + u)] = (130, 200, 240)
    return picture


def _brick(size: int, rng: np.random.Generator, u: float) -> Pixels:
    picture = _flat(size, (178, 80, 62), rng, 6)
    offset = int(rng.integers(0, 8))
    line = max(1, round(u))
    for row in range(0, 64, 8):
        top, bottom = int(row * u), int((row + 8) * u)
        picture[top : top + line] = (212, 196, 184)
        for column in range((offset + (row // 8 % 2) * 8) % 16, 64, 16):
            left = int(column * u)
            picture[top:bottom, left : left + line] = (212, 196, 184)
    return picture


def _table(size: int, rng: np.random.Generator, u: float) -> Pixels:
    edge = int(rng.integers(24, 32))
    picture = _flat(size, (232, 222, 205), rng, 6)
    picture[int(edge * u) :] = np.array((160, 105, 60)) + rng.normal(0, 6, 3)
    line = max(1, round(u))
    for row in range(edge + 5, 64, 7):
        picture[int(row * u) : int(row * u) + line] = (130, 82, 45)
    return picture


_PAINTERS: dict[str, Callable[[int, np.random.Generator, float], Pixels]] = {
    "grass": _grass,
    "beach": _beach,
    "snow": _snow,
    "night": _night,
    "sunset": _sunset,
    "ocean": _ocean,
    "brick": _brick,
    "table": _table,
}


def paint(place: str, rng: np.random.Generator, size: int = 64) -> Pixels:
    """The empty place, ``[size, size, 3]`` in 0..255. Lengths are stated at 64 px and scaled."""
    if place in COLOURS:
        picture = _flat(size, COLOURS[place], rng, 6)
    elif place in _PAINTERS:
        picture = _PAINTERS[place](size, rng, size / 64)
    else:
        raise ValueError(
            f"no place {place!r} in the world: one of {', '.join((*COLOURS, *_PAINTERS))}"
        )
    return np.clip(picture, 0, 255)
