"""Draw one scene of the world: subjects in a relation at a place, with everything known about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcs_mini.world import backdrops, grammar
from pcs_mini.world.assets import Assets, Pixels
from pcs_mini.world.layout import Placed, lay_out
from pcs_mini.world.places import COLOURS
from pcs_mini.world.population import Member, Population, held_out
from pcs_mini.world.pose import Pose, Sprite, pose_of, sprite_of
from pcs_mini.world.reserved import is_reserved

SIZE = 128
COUNTS = (0.65, 0.28, 0.07)
"""Shares of scenes with one, two and three subjects."""
SAME_STYLE = 0.75
"""Share of scenes of several subjects that keep one style where they can."""
RELATED: dict[str, float] = {
    "": 0.15,
    "next to": 0.25,
    "left of": 0.15,
    "right of": 0.15,
    "on top of": 0.15,
    "behind": 0.15,
}
"""Relation of two subjects -> share; the empty one is a list of things side by side."""
PLACES_OF: dict[str, tuple[float, float, float]] = {
    "drawn": (0.30, 0.55, 0.15),
    "solid": (0.20, 0.20, 0.60),
    "person": (0.35, 0.40, 0.25),
}
"""Kind of the first subject -> shares of plain colours, painted scenes and panoramas."""


@dataclass(frozen=True)
class Figure:
    """One subject of a scene."""

    member: Member
    pose: Pose
    box: tuple[float, float, float, float]
    """Left, top, right, bottom of the visible part, 0..1 of the picture."""
    mask: Pixels
    """``[size, size]``: how much of each pixel is this subject, 255 = all; what hides it is out."""
    depth: Pixels | None
    """``[size, size]`` of a solid: 255 near, 0 far or not this subject."""
    camera: tuple[float, float] | None
    """Azimuth and elevation of a solid's view, in degrees."""
    points: NDArray[np.float64] | None
    """``[5, 2]`` of a person, 0..1 of the picture: eyes, nose, corners of the mouth, left first."""

    @property
    def kind(self) -> str:
        """``drawn``, ``solid`` or ``person``."""
        return self.member.kind

    @property
    def concept(self) -> str:
        """What it is, as captions name it."""
        return self.member.concept

    @property
    def style(self) -> str:
        """Style word."""
        return self.member.style

    @property
    def identity(self) -> str:
        """Of a person; empty otherwise."""
        return self.member.identity

    @property
    def colour(self) -> str:
        """Colour it was repainted in; empty for its own."""
        return self.pose.colour

    @property
    def accessories(self) -> tuple[str, ...]:
        """What it wears, as captions say it."""
        return self.pose.accessories

    @property
    def variation(self) -> int:
        """Number of the view of a solid or of the variation of a person; 0 for a drawing."""
        return self.pose.variation

    @property
    def instance(self) -> str:
        """The same for all pictures of the same individual thing, whatever its pose."""
        parts = (self.concept, self.style, self.identity, self.colour)
        return "/".join(part for part in parts if part)


@dataclass(frozen=True)
class Scene:
    """One picture and everything that is known about it."""

    image: Pixels
    """``[size, size, 3]``."""
    caption: str
    place: str
    relation: str
    """Of the first subject to the second; empty without one."""
    figures: tuple[Figure, ...]
    """In the order of the caption."""

    @property
    def facts(self) -> dict[str, Any]:
        """Concepts, styles, place and relation as plain values."""
        return {
            "concepts": [figure.concept for figure in self.figures],
            "styles": [figure.style for figure in self.figures],
            "place": self.place,
            "relation": self.relation,
        }


def draw(
    rng: np.random.Generator,
    assets: Assets,
    population: Population,
    *,
    size: int = SIZE,
    kind: str | None = None,
    subjects: Sequence[Member] = (),
    poses: Sequence[Pose] = (),
    place: str | None = None,
    relation: str | None = None,
    count: int | None = None,
) -> Scene:
    """One scene of `size` px. What is not given is drawn from the population.

    ``subjects`` and ``poses`` fix the first figures, ``relation=""`` asks for none, ``count`` is
    1 to 3. Reserved combinations of concept, style and place, and held-out relations, come up only
    where the caller names them.
    """
    chosen = list(subjects)
    if relation:
        count = 2
    if count is None:
        count = max(len(chosen), 1 + int(np.searchsorted(np.cumsum(COUNTS[:2]), rng.random())))
    if not chosen:
        chosen.append(population.pick(rng, kind))
    while len(chosen) < count:
        chosen.append(_companion(rng, population, chosen))
    if relation is None:
        relation = _relation(rng, chosen) if count == 2 else ""
    taken = [pose_of(rng, assets, m) for m in chosen[len(poses) :]]
    all_poses = [*poses, *taken]
    if place is None:
        place = draw_place(rng, assets, chosen, {pose.colour for pose in all_poses})
    background = backdrops.paint(place, rng, size, assets)
    sprites = [sprite_of(assets, m, pose) for m, pose in zip(chosen, all_poses, strict=True)]
    placed = lay_out(rng, sprites, relation, size)
    image, figures = compose(background, chosen, all_poses, placed)
    mentions = [mention(assets, m, p) for m, p in zip(chosen, all_poses, strict=True)]
    text = grammar.caption(rng, mentions, place, relation or None)
    return Scene(image, text, place, relation, figures)


def references(
    rng: np.random.Generator, assets: Assets, figure: Figure, n: int, *, size: int = SIZE
) -> list[Scene]:
    """`n` further pictures of the same individual thing, alone: other places, views and poses."""
    member = figure.member
    places: list[str] = []
    scenes = []
    last = figure.pose
    for _ in range(n):
        pose = pose_of(rng, assets, member, colour=figure.colour, unlike=last)
        place = draw_place(rng, assets, [member], {pose.colour}, avoid=places)
        scenes.append(
            draw(
                rng,
                assets,
                Population([member]),
                size=size,
                subjects=[member],
                poses=[pose],
                place=place,
                count=1,
            )
        )
        places.append(place)
        last = pose
    return scenes


def draw_place(
    rng: np.random.Generator,
    assets: Assets,
    subjects: Sequence[Member],
    colours: set[str] = frozenset(),  # type: ignore[assignment]
    avoid: Sequence[str] = (),
) -> str:
    """A place where none of these subjects is reserved and none has the place's colour."""
    kinds = (tuple(COLOURS), tuple(backdrops.SCENES), tuple(assets.panoramas))
    shares = np.array(PLACES_OF[subjects[0].kind]) * [bool(names) for names in kinds]
    bounds = np.cumsum(shares / shares.sum())
    place = ""
    for _ in range(100):
        names = kinds[min(int(np.searchsorted(bounds, rng.random(), side="right")), 2)]
        place = names[rng.integers(len(names))]
        if place in colours or place in avoid:
            continue
        if not any(is_reserved(m.concept, m.style, place) for m in subjects):
            return place
    return place


def mention(assets: Assets, member: Member, pose: Pose) -> grammar.Mention:
    """What a caption can say of this subject in this pose."""
    category = "" if member.kind == "person" else assets.category(member.concept)
    return grammar.Mention(
        noun=grammar.noun_of(member.concept),
        short=grammar.short_of(member.concept),
        category=grammar.kind_of(member.concept, category),
        style=member.style,
        colour=pose.colour,
        expression=pose.expression,
        traits=pose.traits,
        accessories=pose.accessories,
        view=pose.view,
    )


def compose(
    background: Pixels, subjects: Sequence[Member], poses: Sequence[Pose], placed: Sequence[Placed]
) -> tuple[Pixels, tuple[Figure, ...]]:
    """Put the subjects onto the place, later layers over earlier ones."""
    size = background.shape[0]
    picture = background.astype(np.uint16)
    masks = [np.zeros((size, size), np.uint8) for _ in placed]
    order = sorted(range(len(placed)), key=lambda i: placed[i].layer)
    for i in order:
        here, patch = placed[i].cut(size)
        alpha = patch[..., 3]
        cover = alpha.astype(np.uint16)[..., None]
        under = picture[here]
        picture[here] = (under * (255 - cover) + patch[..., :3] * cover + 127) // 255
        for j in order[: order.index(i)]:
            hidden = masks[j][here].astype(np.uint16) * (255 - alpha) + 127
            masks[j][here] = (hidden // 255).astype(np.uint8)
        masks[i][here] = alpha
    figures = tuple(
        _figure(m, pose, spot, mask)
        for m, pose, spot, mask in zip(subjects, poses, placed, masks, strict=True)
    )
    return picture.astype(np.uint8), figures


def _figure(member: Member, pose: Pose, spot: Placed, mask: Pixels) -> Figure:
    size = len(mask)
    seen = mask > 127
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    box = (0.0, 0.0, 0.0, 0.0)
    if len(rows):
        box = tuple(float(v) / size for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))  # type: ignore[assignment]
    depth = None
    if spot.sprite.depth is not None:
        here, near = spot.cut_depth(size)
        depth = np.zeros((size, size), np.uint8)
        depth[here] = near
        depth[~seen] = 0
    points = spot.sprite.points
    if points is not None:
        extent = np.array([spot.width, spot.height])
        points = (points * extent + np.array([spot.left, spot.top])) / size
    return Figure(member, pose, box, mask, depth, pose.camera, points)


def _companion(
    rng: np.random.Generator, population: Population, chosen: Sequence[Member]
) -> Member:
    """Another subject, mostly of the first one's kind and style, never a concept twice."""
    first = chosen[0]
    style = first.style if rng.random() < SAME_STYLE else None
    for _ in range(20):
        other = population.pick(rng, first.kind if rng.random() < 0.8 else None, style)
        if other.concept not in {m.concept for m in chosen}:
            return other
    return population.pick(rng)


def _relation(rng: np.random.Generator, pair: Sequence[Member]) -> str:
    bounds = np.cumsum(list(RELATED.values()))
    names = list(RELATED)
    while True:
        name = names[min(int(np.searchsorted(bounds, rng.random(), side="right")), len(names) - 1)]
        if name in held_out().relations:
            continue
        # a bust has no feet to stand with and no top to stand on
        if name == "on top of" and any(m.kind == "person" for m in pair):
            continue
        # of two people one hides what tells the other
        if name == "behind" and all(m.kind == "person" for m in pair):
            continue
        return name


__all__ = ["SIZE", "Figure", "Scene", "Sprite", "draw", "draw_place", "references"]
