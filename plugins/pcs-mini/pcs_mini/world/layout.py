"""Where subjects stand in a picture, so that what a caption says of them is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pcs_mini.world.assets import Pixels
from pcs_mini.world.pose import Sprite

ALONE = (0.45, 0.85)
"""Longest side of a single subject, as a share of the picture."""


@dataclass
class Placed:
    """A sprite with its corner, extent (all in pixels of the picture) and layer."""

    sprite: Sprite
    left: int
    top: int
    width: int
    height: int
    layer: int = 0
    """Higher layers hide lower ones."""

    def __post_init__(self) -> None:
        box = (self.width, self.height)
        picture = Image.fromarray(np.ascontiguousarray(self.sprite.image))
        self.patch: Pixels = np.asarray(picture.resize(box, Image.Resampling.LANCZOS))

    def _window(self, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        x0, y0 = max(0, self.left), max(0, self.top)
        x1, y1 = min(size, self.left + self.width), min(size, self.top + self.height)
        here = (slice(y0, max(y0, y1)), slice(x0, max(x0, x1)))
        source = (
            slice(y0 - self.top, max(y0, y1) - self.top),
            slice(x0 - self.left, max(x0, x1) - self.left),
        )
        return here, source

    def cut(self, size: int) -> tuple[tuple[slice, slice], Pixels]:
        """Where it lies in a picture of `size` px, and the part ``[h, w, 4]`` that lies inside."""
        here, source = self._window(size)
        return here, self.patch[source]

    def cut_depth(self, size: int) -> tuple[tuple[slice, slice], Pixels]:
        """The same of the depth ``[h, w]``; nearest neighbours, so that no edge is averaged."""
        here, source = self._window(size)
        depth = Image.fromarray(np.ascontiguousarray(self.sprite.depth))
        near = np.asarray(depth.resize((self.width, self.height), Image.Resampling.NEAREST))
        return here, near[source]


def lay_out(
    rng: np.random.Generator, sprites: Sequence[Sprite], relation: str, size: int
) -> list[Placed]:
    """Place one subject, two in a relation, or up to three side by side."""
    if len(sprites) == 1:
        return [_alone(rng, sprites[0], size)]
    if relation == "on top of":
        return _stack(rng, sprites[0], sprites[1], size)
    if relation == "under":
        return _stack(rng, sprites[1], sprites[0], size)[::-1]
    if relation == "behind":
        return _behind(rng, sprites[0], sprites[1], size)
    order = list(range(len(sprites)))
    if relation == "right of":
        order.reverse()
    elif relation != "left of":
        order = [int(i) for i in rng.permutation(len(sprites))]
    return _row(rng, sprites, order, size)


def _extent(sprite: Sprite, longest: float) -> tuple[int, int]:
    height, width = sprite.image.shape[:2]
    ratio = longest / max(height, width)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def _alone(rng: np.random.Generator, sprite: Sprite, size: int) -> Placed:
    width, height = _extent(sprite, rng.uniform(*ALONE) * size)
    edge = size // 32
    x = size / 2 + rng.normal(0, 0.06 * size) - width / 2
    y = 0.52 * size + rng.normal(0, 0.05 * size) - height / 2
    left = int(np.clip(x, -edge, max(-edge, size - width + edge)))
    top = int(np.clip(y, -edge, max(-edge, size - height + edge)))
    return Placed(sprite, left, size - height if sprite.bust else top, width, height)


def _row(
    rng: np.random.Generator, sprites: Sequence[Sprite], order: Sequence[int], size: int
) -> list[Placed]:
    slot = 0.97 * size / len(sprites)
    ground = rng.uniform(0.72, 0.92) * size
    placed: list[Placed | None] = [None] * len(sprites)
    for at, i in enumerate(order):
        sprite = sprites[i]
        tall, wide = sprite.image.shape[:2]
        share = rng.uniform(0.84, 1.0)
        ratio = share * min(slot / wide, 0.7 * size / tall)
        width, height = max(1, round(wide * ratio)), max(1, round(tall * ratio))
        centre = 0.015 * size + slot * (at + 0.5) + rng.normal(0, 0.01 * size)
        bottom = size if sprite.bust else ground + rng.normal(0, 0.015 * size)
        top = max(0, round(bottom) - height)
        placed[i] = Placed(sprite, round(centre - width / 2), top, width, height)
    return [spot for spot in placed if spot is not None]


def _stack(rng: np.random.Generator, upper: Sprite, lower: Sprite, size: int) -> list[Placed]:
    below = np.array(_extent(lower, rng.uniform(0.46, 0.58) * size), float)
    above = np.array(_extent(upper, rng.uniform(0.36, 0.46) * size), float)
    # what stands on something must not be much wider than it
    above *= min(1.0, 1.25 * below[0] / above[0])
    both = min(1.0, 0.94 * size / (below[1] + above[1]))
    (wb, hb), (wa, ha) = (np.maximum(1, np.round(v * both)).astype(int) for v in (below, above))
    centre = size / 2 + rng.normal(0, 0.07 * size)
    centre = float(np.clip(centre, wb / 2, size - wb / 2))
    bottom = round(min(size, size / 2 + (hb + ha) / 2 + abs(rng.normal(0, 0.04 * size))))
    base = Placed(lower, round(centre - wb / 2), bottom - int(hb), int(wb), int(hb))
    shift = rng.uniform(-0.08, 0.08) * wb
    middle = int(np.clip(wb / 2 + shift, 0, wb - 1))
    near = base.patch[:, max(0, middle - wb // 8) : middle + wb // 8 + 1, 3] > 127
    surface = int(np.median(near.argmax(0))) if near.any() else 0
    sink = max(1, round(0.05 * ha))
    top = base.top + surface + sink - int(ha)
    x = base.left + middle - wa / 2
    return [Placed(upper, round(x), top, int(wa), int(ha), layer=1), base]


def _behind(rng: np.random.Generator, back: Sprite, front: Sprite, size: int) -> list[Placed]:
    wb, hb = _extent(back, rng.uniform(0.58, 0.74) * size)
    wf, hf = _extent(front, rng.uniform(0.38, 0.5) * size)
    side = 1 if rng.random() < 0.5 else -1
    x = size / 2 - side * rng.uniform(0.06, 0.12) * size
    ground = rng.uniform(0.76, 0.84) * size
    left, top = round(x - wb / 2), max(0, round(ground) - hb)
    behind = Placed(back, left, size - hb if back.bust else top, wb, hb, layer=0)
    bottom = size if front.bust else min(size, round(ground + rng.uniform(0.05, 0.12) * size))
    whole = int((behind.patch[..., 3] > 127).sum())
    for offset in (0.14, 0.2, 0.26, 0.32, 0.4):
        centre = np.clip(x + side * offset * size, wf / 2, size - wf / 2)
        before = Placed(front, round(centre - wf / 2), bottom - hf, wf, hf, layer=1)
        covered = _overlap(behind, before, size)
        if covered < 0.45 * whole:
            break
    return [behind, before]


def _overlap(one: Placed, other: Placed, size: int) -> int:
    """Pixels of the first that the second hides."""
    area = np.zeros((size, size), bool)
    here, patch = one.cut(size)
    area[here] = patch[..., 3] > 127
    here, patch = other.cut(size)
    return int((area[here] & (patch[..., 3] > 127)).sum())
