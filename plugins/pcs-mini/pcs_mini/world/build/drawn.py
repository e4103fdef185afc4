"""Draw the world's flat things: one sprite per concept and drawing style, from icon packages."""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pcs_mini.world.build.family import Family
from pcs_mini.world.build.packages import Contents, Package, open_package

SPRITE_PX = 112
"""Longest side of a sprite, which fills its box."""
DRAW_PX = 224
"""Side at which vector drawings are drawn before they are cropped and shrunk."""
QUALITY = 75
ALPHA_QUALITY = 30
"""Eight levels of alpha: an edge shows no difference, and a sprite is a third smaller."""
FEWEST_STYLES = 4
"""A concept that fewer sets draw is refused."""

PACKAGES: dict[str, Package] = {
    "glossy": Package(
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
        "Google Inc",
    ),
    "flat": Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
        "Microsoft Corporation",
    ),
    "rendered": Package(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "MIT",
        "Microsoft Corporation, packed by LobeHub",
    ),
    "rounded": Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0",
        "Twitter",
    ),
    "blob": Package(
        "@iconify-json/noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        "Apache-2.0",
        "Google Inc",
    ),
    "outlined": Package(
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "CC-BY-4.0",
        "Emoji One",
    ),
}
"""Style word -> icon set."""


@dataclass(frozen=True)
class Concept:
    """One thing that has a name."""

    category: str
    code: str
    """File name of the rendered set: the code points in lower-case hex."""
    icons: tuple[str, ...]
    """Names in the vector sets, the first that a set knows is taken."""


def concepts() -> dict[str, Concept]:
    """Name -> concept, from ``drawn.toml``.

    Raises
    ------
    ValueError
        A name occurs twice, is not one or two plain lower-case words, or two names share an icon.
    """
    table = tomllib.loads(files(__package__).joinpath("drawn.toml").read_text("utf-8"))
    by_name: dict[str, Concept] = {}
    codes: dict[str, str] = {}
    for category, rows in table.items():
        for name, (code, *icons) in rows.items():
            if not re.fullmatch(r"[a-z]+( [a-z]+)?", name):
                raise ValueError(
                    f"drawn.toml: [{category}]: {name!r} is not one or two lower-case words"
                )
            if name in by_name:
                raise ValueError(
                    f"drawn.toml: {name!r} is in [{category}] and [{by_name[name].category}]: drop one"
                )
            if code in codes:
                raise ValueError(
                    f"drawn.toml: {name!r} and {codes[code]!r} are the same icon {code}: drop one"
                )
            by_name[name], codes[code] = Concept(category, code, tuple(icons)), name
    return by_name


class VectorSet:
    """An icon set of SVG bodies: the ``icons.json`` of an Iconify package."""

    def __init__(self, contents: Contents) -> None:
        self._table: dict[str, Any] = json.loads(contents.read("icons.json"))

    def draw(self, concept: Concept) -> Image.Image | None:
        """The concept as RGBA, ``DRAW_PX`` wide or high; None if the set lacks it."""
        icons, aliases = self._table["icons"], self._table.get("aliases", {})
        for name in concept.icons:
            while name in aliases:
                name = aliases[name]["parent"]
            if name in icons:
                return self._raster(icons[name])
        return None

    def _raster(self, icon: dict[str, Any]) -> Image.Image:
        import resvg_py

        def field(key: str, default: int) -> float:
            return icon.get(key, self._table.get(key, default))

        box = (field("left", 0), field("top", 0), field("width", 16), field("height", 16))
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{box[2]}" height="{box[3]}" viewBox="{" ".join(map(str, box))}">'
            f"{icon['body']}</svg>"
        )
        scale = DRAW_PX / max(box[2:])
        size = (round(box[2] * scale), round(box[3] * scale))
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size[0], height=size[1]))
        return Image.open(io.BytesIO(png)).convert("RGBA")


class PictureSet:
    """An icon set of WebP pictures: ``assets/<code points>.webp``."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def draw(self, concept: Concept) -> Image.Image | None:
        """The concept as RGBA at its own size; None if the set lacks it."""
        name = f"assets/{concept.code}.webp"
        if name not in self._contents:
            return None
        return Image.open(io.BytesIO(self._contents.read(name))).convert("RGBA")


@contextmanager
def open_set(style: str, folder: Path) -> Iterator[VectorSet | PictureSet]:
    """The icon set of a style word, its package pinned."""
    with open_package(PACKAGES[style], folder) as contents:
        yield PictureSet(contents) if style == "rendered" else VectorSet(contents)


def sprite(image: Image.Image) -> bytes:
    """Cropped to what is visible, longest side ``SPRITE_PX``, colour 0 where alpha is 0; as WebP."""
    image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    scale = SPRITE_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.array(image.resize(size, Image.Resampling.LANCZOS))
    pixels[pixels[..., 3] == 0] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, "WEBP", quality=QUALITY, alpha_quality=ALPHA_QUALITY, method=6
    )
    return buffer.getvalue()


def build(packages: Path, report: Callable[[str], None], *, limit: int | None = None) -> Family:
    """Draw every concept in every style that has it.

    Parameters
    ----------
    packages
        Folder of the downloaded packages; what is missing is fetched into it.
    report
        Takes one line per style.
    limit
        Concepts, of those in ``drawn.toml`` evenly spread; None draws all.

    Raises
    ------
    FileNotFoundError
        A package is missing and could not be fetched.
    ValueError
        A package is not the pinned one, ``drawn.toml`` is wrong, or a concept has fewer than
        ``FEWEST_STYLES`` styles.
    """
    chosen = concepts()
    if limit is not None:
        names = list(chosen)
        chosen = {n: chosen[n] for n in names[:: max(1, -(-len(names) // limit))]}
    entries: dict[str, bytes] = {}
    index: dict[str, Any] = {n: {"category": c.category, "styles": {}} for n, c in chosen.items()}
    for style in PACKAGES:
        drawn = 0
        with open_set(style, packages) as icons:
            for name, concept in chosen.items():
                if (image := icons.draw(concept)) is None:
                    continue
                file = f"drawn/{style}/{name}.webp"
                entries[file], drawn = sprite(image), drawn + 1
                index[name]["styles"][style] = file
        report(f"{style}: {drawn} of {len(chosen)} concepts")
    for name, row in index.items():
        if len(row["styles"]) < FEWEST_STYLES:
            raise ValueError(
                f"drawn.toml: {name!r} is drawn by {len(row['styles'])} sets only "
                f"({', '.join(row['styles'])}): drop it, or add its name in the other sets"
            )
    return Family(entries, index, [{**PACKAGES[s].source, "style": s} for s in PACKAGES])
