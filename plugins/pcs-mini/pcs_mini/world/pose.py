"""How a subject appears in one picture: view or variation, colour, accessories, flip and tilt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcs_mini.world import grammar
from pcs_mini.world.assets import Assets, Person, Pixels, Solid
from pcs_mini.world.places import COLOURS
from pcs_mini.world.population import Member

TINTED = 0.10
"""Share of drawings repainted in a named colour."""
HATTED = 0.08
"""Share of drawn animals that wear a hat."""
TILTED = 0.2
"""Share of drawings that lean, by a few degrees."""
HATS = ("top hat", "sun hat")
"""Drawn concepts that serve as a hat, the first that the style has."""
WEARERS = frozenset({"animal"})
"""Categories that may wear one."""


@dataclass(frozen=True)
class Pose:
    """What differs between two pictures of the same thing."""

    variation: int = 0
    """Number of a solid's view or a person's variation."""
    colour: str = ""
    accessories: tuple[str, ...] = ()
    """As captions say them: ``glasses``, ``a hat``."""
    expression: str = ""
    traits: tuple[str, ...] = ()
    view: str = ""
    """Viewpoint words, as in ``from the front``."""
    camera: tuple[float, float] | None = None
    """Azimuth and elevation of a solid, in degrees."""
    flipped: bool = False
    tilt: float = 0.0
    """Degrees, anticlockwise."""


@dataclass(frozen=True)
class Sprite:
    """A subject cut out, before it is scaled."""

    image: Pixels
    """``[h, w, 4]``, cropped to what is visible."""
    depth: Pixels | None = None
    """``[h, w]``."""
    points: NDArray[np.float64] | None = None
    """``[5, 2]``, 0..1 of the cropped picture."""
    bust: bool = False
    """Whether it is cut off at the bottom, and so must stand on the picture's edge."""


def pose_of(
    rng: np.random.Generator,
    assets: Assets,
    member: Member,
    *,
    colour: str | None = None,
    unlike: Pose | None = None,
) -> Pose:
    """A pose by chance; `colour` fixes the colour, `unlike` rules out that pose's view."""
    if member.kind == "solid":
        return _solid_pose(rng, assets.solids[member.concept], unlike)
    if member.kind == "person":
        return _person_pose(rng, assets, member, unlike)
    if colour is None:
        tint = tuple(COLOURS)[rng.integers(len(COLOURS))]
        named = not COLOURS.keys().isdisjoint(member.concept.split())
        colour = tint if rng.random() < TINTED and not named else ""
    flipped = rng.random() < 0.5 if unlike is None else not unlike.flipped
    tilt = float(np.clip(rng.normal(0, 7), -15, 15)) if rng.random() < TILTED else 0.0
    hat = rng.random() < HATTED and assets.category(member.concept) in WEARERS
    worn = ("a hat",) if hat and hat_of(assets, member.style) else ()
    return Pose(colour=colour, accessories=worn, flipped=flipped, tilt=tilt)


def hat_of(assets: Assets, style: str) -> str | None:
    """The concept that is a hat in this style, if any."""
    for concept in HATS:
        if concept in assets.drawn and style in assets.drawn[concept].styles:
            return concept
    return None


def view_words(about: Solid, azimuth: float, elevation: float) -> str:
    """What a caption may say of a viewpoint; nothing where the front is unknown.

    An object whose azimuth 0 is its side does not say which way its front points.
    """
    if about.facing is None or about.symmetric:
        return ""
    if elevation >= 30:
        return "from above"
    turn = (azimuth + 180) % 360 - 180
    if about.facing == "side":
        return "from the side" if min(abs(turn), 180 - abs(turn)) <= 25 else ""
    if abs(turn) <= 25:
        return "from the front"
    if abs(turn) >= 155:
        return "from the back"
    return "from the side" if 65 <= abs(turn) <= 115 else ""


def sprite_of(assets: Assets, member: Member, pose: Pose) -> Sprite:
    """The subject cut out in this pose."""
    if member.kind == "solid":
        image, depth = assets.solid_view(member.concept, pose.variation)
        here = _visible(image)
        return Sprite(image[here], depth[here])
    if member.kind == "person":
        return _person_sprite(assets, member, pose)
    image = assets.drawing(member.concept, member.style)
    if pose.colour:
        image = tint(image, pose.colour)
    if pose.accessories:
        concept = hat_of(assets, member.style)
        if concept is not None:
            image = put_on(image, assets.drawing(concept, member.style))
    if pose.flipped:
        image = image[:, ::-1]
    if pose.tilt:
        leaning = Image.fromarray(image).rotate(
            pose.tilt, Image.Resampling.BICUBIC, expand=True, fillcolor=(0, 0, 0, 0)
        )
        image = np.asarray(leaning)
        image = image[_visible(image)]
    return Sprite(image)


def tint(image: Pixels, colour: str) -> Pixels:
    """The drawing repainted in shades of a named colour; its alpha stays."""
    light = image[..., :3] @ np.array([0.3, 0.59, 0.11], np.float32) / 255
    base = np.array(COLOURS[colour], np.float32)
    # the lights stay lighter than the colour, so that a black thing keeps its inner lines
    painted = base * (0.3 + 0.8 * light[..., None]) + 60 * light[..., None] ** 3
    return np.dstack([np.clip(painted, 0, 255).astype(np.uint8), image[..., 3]])


def put_on(image: Pixels, hat: Pixels, share: float = 0.5) -> Pixels:
    """The drawing with a hat on the highest part of its outline; `share` of its width."""
    height, width = image.shape[:2]
    solid = image[..., 3] > 127
    tops = np.where(solid.any(0), solid.argmax(0), height)
    high = np.flatnonzero(tops <= tops.min() + 0.12 * height)
    # a raised tail is as high as the head, and narrower
    runs = np.split(high, np.flatnonzero(np.diff(high) > 0.1 * width) + 1)
    high = max(runs, key=len)
    centre = float(high.mean())
    across = max(8, round(share * width))
    tall = max(6, round(across * hat.shape[0] / hat.shape[1]))
    crown = Image.fromarray(hat).resize((across, tall), Image.Resampling.LANCZOS)
    brim = int(np.median(tops[high])) + round(0.22 * tall)
    above = max(0, tall - brim)
    left = round(centre - across / 2)
    before, after = max(0, -left), max(0, left + across - width)
    widened = Image.new("RGBA", (width + before + after, height + above))
    widened.paste(Image.fromarray(image), (before, above))
    widened.alpha_composite(crown, (left + before, above + brim - tall))
    return np.asarray(widened)


def _solid_pose(rng: np.random.Generator, about: Solid, unlike: Pose | None) -> Pose:
    views = [i for i in range(len(about.views)) if unlike is None or i != unlike.variation] or [0]
    view = views[rng.integers(len(views))]
    azimuth, elevation = about.views[view]
    return Pose(
        variation=view,
        camera=(azimuth, elevation),
        view=view_words(about, azimuth, elevation),
    )


def _person_pose(
    rng: np.random.Generator, assets: Assets, member: Member, unlike: Pose | None
) -> Pose:
    about = assets.people[member.style][member.identity]
    numbers = [
        i for i in range(len(about.variations)) if unlike is None or i != unlike.variation
    ] or [0]
    number = numbers[rng.integers(len(numbers))]
    looks = about.variations[number]
    worn = [grammar.with_article(about.words["headwear"])] if about.words.get("headwear") else []
    worn += (["glasses"] if looks.glasses else []) + (["a hat"] if looks.hat else [])
    return Pose(
        variation=number,
        accessories=tuple(worn),
        expression="" if looks.expression == "neutral" else looks.expression,
        traits=_traits(about),
        flipped=bool(rng.random() < 0.3),
    )


def _traits(about: Person) -> tuple[str, ...]:
    """What stays the same of a person: hair and beard, as captions say them."""
    words = about.words
    said = []
    if words.get("hair"):
        # the style of no hair is no style
        cut = "" if words["hair"] == "no" else words.get("hair_style", "")
        said.append(" ".join(word for word in (cut, words["hair"], "hair") if word))
    if words.get("beard"):
        said.append("a beard")
    elif words.get("moustache"):
        said.append("a moustache")
    return tuple(said)


def _person_sprite(assets: Assets, member: Member, pose: Pose) -> Sprite:
    about = assets.people[member.style][member.identity]
    cell = assets.person_view(member.style, member.identity, pose.variation)
    here = _visible(cell)
    image = cell[here]
    points = about.variations[pose.variation].points
    if points is not None:
        corner = np.array([here[1].start, here[0].start])
        points = (points * about.cell - corner) / np.array([image.shape[1], image.shape[0]])
    if pose.flipped:
        image = image[:, ::-1]
        if points is not None:
            # a mirror swaps the eyes and the corners of the mouth
            points = np.stack([1 - points[:, 0], points[:, 1]], 1)[[1, 0, 2, 4, 3]]
    bust = bool((image[-1, :, 3] > 127).mean() > 0.5 and here[0].stop >= about.cell - 2)
    return Sprite(image, points=points, bust=bust)


def _visible(image: Pixels) -> tuple[slice, slice]:
    seen = image[..., 3] > 8
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not len(rows):
        return slice(0, image.shape[0]), slice(0, image.shape[1])
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
