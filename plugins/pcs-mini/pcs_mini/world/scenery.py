"""Painted scenes: forest, desert, street, kitchen, library and more, drawn from scratch.

They hold nothing that is a subject elsewhere (no fish under water, no cactus in the desert), so that
a caption names everything in the picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from pcs_mini.world.assets import Pixels

Colour = tuple[int, int, int]

SCENERY: dict[str, str] = {
    "forest": "in a forest",
    "desert": "in the desert",
    "street": "on a city street",
    "kitchen": "in a kitchen",
    "library": "in a library",
    "mountains": "in the mountains",
    "underwater": "underwater",
    "space": "in space",
    "flowers": "in a field of flowers",
    "stage": "on a stage",
}
"""Painted place -> how a caption says it."""


class Easel:
    """A square picture measured in 64ths of its side, so that a scene is the same at any size."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng, self.unit = size, rng, size / 64
        self._image = Image.new("RGB", (size, size))
        self._draw = ImageDraw.Draw(self._image)

    def vary(self, colour: Colour, spread: float = 6) -> Colour:
        """The colour, a little different each time."""
        r, g, b = np.clip(np.array(colour) + self.rng.normal(0, spread, 3), 0, 255)
        return int(r), int(g), int(b)

    def between(self, low: float, high: float) -> float:
        """A length by chance."""
        return float(self.rng.uniform(low, high))

    def gradient(self, top: Colour, bottom: Colour, until: float = 64) -> None:
        """Fill from above down to `until` with a gradient."""
        rows = max(1, round(until * self.unit))
        t = np.linspace(0, 1, rows)[:, None]
        column = (np.array(top) * (1 - t) + np.array(bottom) * t).astype(np.uint8)
        strip = Image.fromarray(column[:, None])
        self._image.paste(strip.resize((self.size, rows)), (0, 0))

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """A filled rectangle."""
        u = self.unit
        x0, y0 = round(left * u), round(top * u)
        x1, y1 = max(x0, round(right * u) - 1), max(y0, round(bottom * u) - 1)
        self._draw.rectangle((x0, y0, x1, y1), fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour, flat: float = 1.0) -> None:
        """A filled ellipse; `flat` is its height over its width."""
        u = self.unit
        tall = radius * flat
        self._draw.ellipse(
            ((x - radius) * u, (y - tall) * u, (x + radius) * u, (y + tall) * u), fill=colour
        )

    def shape(self, corners: list[tuple[float, float]], colour: Colour) -> None:
        """A filled polygon."""
        u = self.unit
        self._draw.polygon([(x * u, y * u) for x, y in corners], fill=colour)

    def hills(self, top: float, height: float, length: float, colour: Colour) -> None:
        """A wavy ground whose crest lies about `top`."""
        x = np.arange(0, 66, 2.0)
        phase = self.between(0, 6.3)
        y = top + height * np.sin(x / length + phase)
        corners = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
        self.shape([(0.0, 64.0), *corners, (64.0, 64.0)], colour)

    def pixels(self) -> Pixels:
        """What was painted, ``[size, size, 3]``."""
        return np.asarray(self._image)


def _forest(easel: Easel) -> None:
    easel.gradient((120, 170, 120), (60, 110, 70), 52)
    ground = easel.between(42, 48)
    for shade, wide, many in (((84, 92, 66), 2.2, 7), ((92, 66, 44), 4.0, 4)):
        for _ in range(many):
            x, w = easel.between(-2, 64), wide * easel.between(0.8, 1.3)
            easel.box(x, 0, x + w, ground + wide, easel.vary(shade))
    easel.hills(ground, 1.2, 7, easel.vary((70, 88, 44)))
    for _ in range(16):
        easel.disc(
            easel.between(0, 64),
            easel.between(-2, 9),
            easel.between(4, 8),
            easel.vary((44, 104, 50), 10),
        )


def _desert(easel: Easel) -> None:
    easel.gradient((250, 200, 120), (255, 232, 180), 46)
    easel.disc(easel.between(8, 56), easel.between(6, 16), 5, (255, 246, 210))
    x = easel.between(4, 44)
    easel.shape([(x, 38), (x + 3, 26), (x + 13, 26), (x + 17, 38)], easel.vary((196, 116, 74)))
    easel.hills(easel.between(34, 38), 2.5, 11, easel.vary((232, 176, 96)))
    easel.hills(easel.between(44, 50), 3.5, 9, easel.vary((218, 156, 78)))


def _street(easel: Easel) -> None:
    easel.gradient((170, 200, 225), (215, 228, 236), 46)
    walls = [(150, 110, 100), (120, 130, 150), (190, 170, 140), (110, 120, 110), (165, 90, 80)]
    x = easel.between(-6, 0)
    while x < 64:
        wide, top = easel.between(11, 17), easel.between(4, 20)
        easel.box(x, top, x + wide, 46, easel.vary(walls[easel.rng.integers(len(walls))]))
        for wx in np.arange(x + 2, x + wide - 2.5, 4):
            for wy in np.arange(top + 3, 42, 6):
                easel.box(wx, wy, wx + 2, wy + 3, (244, 226, 150))
        x += wide
    easel.box(0, 44, 64, 49, easel.vary((176, 174, 170)))
    easel.box(0, 49, 64, 64, easel.vary((78, 80, 86)))
    start = easel.between(-6, 0)
    for dash in np.arange(start, 64, 12):
        easel.box(dash, 56, dash + 6, 57.2, (236, 232, 214))


def _kitchen(easel: Easel) -> None:
    easel.box(0, 0, 64, 44, easel.vary((226, 236, 234)))
    edge = easel.between(38, 43)
    joint = (196, 212, 212)
    for at in np.arange(easel.between(0, 6), 64, 6):
        easel.box(at, 12, at + 0.6, edge, joint)
    for at in np.arange(13, edge, 6):
        easel.box(0, at, 64, at + 0.6, joint)
    easel.box(0, 0, 64, 12, easel.vary((206, 158, 104)))
    for at in np.arange(easel.between(0, 14), 64, 16):
        easel.box(at, 0, at + 0.8, 12, (150, 106, 62))
        easel.box(at + 2.5, 8, at + 3.5, 10, (240, 240, 235))
    easel.box(0, edge, 64, edge + 4, easel.vary((92, 92, 98)))
    easel.box(0, edge + 4, 64, 64, easel.vary((218, 172, 118)))
    for at in np.arange(easel.between(0, 14), 64, 16):
        easel.box(at, edge + 4, at + 0.8, 64, (160, 116, 70))


def _library(easel: Easel) -> None:
    easel.box(0, 0, 64, 64, easel.vary((98, 62, 38)))
    spines = np.array(
        [
            (150, 44, 40),
            (40, 74, 120),
            (54, 104, 66),
            (200, 160, 70),
            (120, 70, 120),
            (220, 205, 180),
        ]
    )
    for shelf in range(4):
        bottom = 13.5 + shelf * 14
        x = easel.between(0, 2)
        while x < 64:
            wide, tall = easel.between(1.8, 3.6), easel.between(8, 11.5)
            easel.box(
                x, bottom - tall, x + wide - 0.4, bottom, easel.vary(spines[easel.rng.integers(6)])
            )
            x += wide
        easel.box(0, bottom, 64, bottom + 1.5, (140, 94, 58))
    easel.box(0, 57, 64, 64, easel.vary((128, 40, 44)))


def _mountains(easel: Easel) -> None:
    easel.gradient((110, 165, 225), (205, 226, 242), 52)
    for many, low, high, shade in ((3, 12, 18, (124, 134, 156)), (2, 18, 24, (92, 102, 124))):
        for _ in range(many):
            x, top, wide = easel.between(0, 64), easel.between(low, high), easel.between(18, 26)
            slope = (46 - top) / wide
            easel.shape([(x - wide, 49), (x, top), (x + wide, 49)], easel.vary(shade))
            cap = easel.between(7, 10)
            out = cap / slope
            easel.shape(
                [
                    (x, top),
                    (x + out, top + cap),
                    (x + out * 0.4, top + cap * 0.7),
                    (x, top + cap),
                    (x - out * 0.4, top + cap * 0.7),
                    (x - out, top + cap),
                ],
                (246, 249, 253),
            )
    easel.hills(easel.between(44, 47), 1.2, 9, easel.vary((104, 144, 90)))


def _underwater(easel: Easel) -> None:
    easel.gradient((70, 200, 205), (10, 70, 110), 64)
    for _ in range(4):
        x = easel.between(0, 64)
        easel.shape([(x, 0), (x + 3, 0), (x - 6, 40), (x - 12, 40)], (112, 216, 216))
    easel.hills(easel.between(54, 57), 1.5, 8, easel.vary((206, 190, 140)))
    for _ in range(7):
        x, tall = easel.between(0, 64), easel.between(10, 22)
        shade = easel.vary((30, 120, 80), 10)
        for step in np.arange(0, tall, 2):
            sway = 1.2 * np.sin(step / 2.5 + x)
            easel.box(x + sway, 58 - step - 2, x + sway + 1.6, 58 - step, shade)
    for _ in range(9):
        easel.disc(
            easel.between(0, 64), easel.between(4, 50), easel.between(0.6, 1.6), (196, 240, 240)
        )


def _space(easel: Easel) -> None:
    easel.gradient((14, 8, 30), (34, 12, 52), 64)
    for _ in range(46):
        x, y = easel.between(0, 64), easel.between(0, 64)
        easel.box(x, y, x + 0.7, y + 0.7, (255, 255, 255))
    shades = [(222, 120, 70), (90, 190, 200), (196, 120, 200), (140, 190, 110), (214, 180, 110)]
    corners = easel.rng.permutation(4)[:3]
    for i, corner in enumerate(corners):
        x = (10 if corner % 2 else 54) + easel.between(-5, 5)
        y = (10 if corner < 2 else 54) + easel.between(-5, 5)
        radius = (8.5, 5.5, 3.5)[i] * easel.between(0.9, 1.2)
        shade = easel.vary(shades[easel.rng.integers(len(shades))], 12)
        if i == 0:
            easel.disc(x, y, radius * 1.75, (206, 196, 170), 0.28)
            easel.disc(x, y, radius * 1.4, (24, 10, 40), 0.2)
        easel.disc(x, y, radius, shade)
        red, green, blue = (int(v * 0.8) for v in shade)
        easel.disc(x + radius * 0.3, y + radius * 0.25, radius * 0.35, (red, green, blue))


def _flowers(easel: Easel) -> None:
    horizon = easel.between(20, 27)
    easel.gradient((140, 200, 250), (220, 238, 250), horizon + 2)
    easel.hills(horizon, 1, 9, easel.vary((108, 176, 84)))
    shades = [(230, 60, 80), (250, 210, 70), (246, 246, 246), (180, 90, 210), (245, 140, 190)]
    places = np.sort(easel.rng.uniform(horizon + 3, 64, 70))
    for y in places:
        radius = 0.7 + 1.5 * (float(y) - horizon) / (64 - horizon)
        x = easel.between(0, 64)
        easel.disc(x, float(y), radius, shades[easel.rng.integers(len(shades))])
        easel.disc(x, float(y), radius * 0.35, (240, 180, 40))


def _stage(easel: Easel) -> None:
    easel.gradient((70, 10, 24), (110, 18, 34), 48)
    fold = easel.between(0, 5)
    for at in np.arange(fold - 5, 64, 5):
        easel.box(at, 0, at + 2, 48, easel.vary((150, 26, 44), 4))
    easel.box(0, 0, 64, 6, (168, 34, 50))
    for at in np.arange(fold - 8, 70, 8):
        easel.disc(at, 6, 4.2, (168, 34, 50), 0.7)
    easel.box(0, 47, 64, 64, easel.vary((176, 120, 66)))
    easel.disc(32 + easel.between(-5, 5), 55, 22, (214, 166, 104), 0.3)


_PAINTERS: dict[str, Callable[[Easel], None]] = {
    "forest": _forest,
    "desert": _desert,
    "street": _street,
    "kitchen": _kitchen,
    "library": _library,
    "mountains": _mountains,
    "underwater": _underwater,
    "space": _space,
    "flowers": _flowers,
    "stage": _stage,
}


def paint(place: str, rng: np.random.Generator, size: int) -> Pixels:
    """The empty scene, ``[size, size, 3]``; `place` is a key of `SCENERY`."""
    easel = Easel(size, rng)
    _PAINTERS[place](easel)
    return easel.pixels()
