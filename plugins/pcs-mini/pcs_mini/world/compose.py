"""Draw one picture of the world: a subject at a scale, a spot and a flip, on a place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcs_mini.world.atlas import sprite
from pcs_mini.world.captions import draw_caption
from pcs_mini.world.places import COLOURS, PLACES, SCENES, paint
from pcs_mini.world.roster import roster

SIZE = 64
SCALES = (0.60, 0.86)
"""Longest side of the subject, as a share of the picture."""
TINTED = 0.12
"""Share of pictures whose subject is repainted in a named colour."""


@dataclass(frozen=True)
class Sample:
    """One picture of the world and everything that is known about it."""

    image: NDArray[np.uint8]
    """``[size, size, 3]``."""
    mask: NDArray[np.uint8]
    """``[size, size]``: how much of each pixel is the subject, 255 = all of it."""
    caption: str
    noun: str
    style: str
    place: str
    colour: str
    """Empty for the drawing's own colours."""


def tint(image: Image.Image, colour: str) -> Image.Image:
    """The drawing repainted in shades of a named colour; its alpha stays."""
    pixels = np.asarray(image).astype(np.float64)
    shade = 0.25 + 0.9 * (pixels[..., :3] @ np.array([0.3, 0.59, 0.11])) / 255
    pixels[..., :3] = np.clip(shade[..., None] * np.array(COLOURS[colour]), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8), "RGBA")


def compose(
    rng: np.random.Generator,
    noun: str,
    style: str,
    place: str,
    *,
    size: int = SIZE,
    colour: str = "",
    scales: tuple[float, float] = SCALES,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Picture ``[size, size, 3]`` and mask ``[size, size]`` of one subject at one place."""
    background = paint(place, rng, size)
    figure = sprite(noun, style)
    longest = rng.uniform(*scales) * size
    ratio = longest / max(figure.size)
    shape = (max(1, round(figure.width * ratio)), max(1, round(figure.height * ratio)))
    figure = figure.resize(shape, Image.Resampling.LANCZOS)
    if colour:
        figure = tint(figure, colour)
    if rng.random() < 0.5:
        figure = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    unit, edge = size / 64, round(size / 32)
    x = 32 * unit + rng.normal(0, 2.5 * unit) - figure.width / 2
    y = 33 * unit + rng.normal(0, 2.0 * unit) - figure.height / 2
    layer = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    corner = (
        int(np.clip(x, -edge, size - figure.width + edge)),
        int(np.clip(y, -edge, size - figure.height + edge)),
    )
    layer.paste(figure, corner)
    picture = Image.fromarray(background.astype(np.uint8), "RGB")
    picture.paste(layer, (0, 0), layer)
    return np.asarray(picture), np.asarray(layer)[..., 3].copy()


def draw(
    rng: np.random.Generator,
    noun: str | None = None,
    style: str | None = None,
    place: str | None = None,
    *,
    size: int = SIZE,
) -> Sample:
    """One training sample. What is not given is drawn; held-out subjects never are."""
    people = roster()
    if place is None:
        names = tuple(COLOURS) if rng.random() < 0.5 else tuple(SCENES)
        place = names[rng.integers(len(names))]
    noun = noun or tuple(people.nouns)[rng.integers(len(people.nouns))]
    style = style or tuple(people.styles)[rng.integers(len(people.styles))]
    colour = ""
    if rng.random() < TINTED:
        wanted = tuple(COLOURS)[rng.integers(len(COLOURS))]
        colour = "" if wanted == place else wanted
    image, mask = compose(rng, noun, style, place, size=size, colour=colour)
    text = draw_caption(rng, noun, place, style, colour)
    return Sample(image, mask, text, noun, style, place, colour)


__all__ = ["PLACES", "SIZE", "Sample", "compose", "draw", "tint"]
