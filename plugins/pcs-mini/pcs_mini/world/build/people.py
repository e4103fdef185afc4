"""Draw the people of the world: avatars whose identity stays while face and accessories vary."""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import io
import json
import random
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcs_mini.world.build.family import Family

CELL_PX = 112
"""Side of one drawing; a bust fills it."""
COLUMNS = 4
CANDIDATES = 8
"""Drawn for each identity that is kept."""
EXTRA_SHARE = 0.3
"""Of identities that have each optional part, such as freckles."""
FACIAL_HAIR_SHARE = 0.4
"""Of identities with short hair or none that have a beard or a moustache."""
POINT_PX = 224
"""Side of the drawings on which the places of eyes, nose and mouth are measured."""

PACKAGES: dict[str, tuple[str, str, str, str]] = {
    "dicebear-core": (
        "10.7.0",
        "2e7d0fd81224aab41bf12b8042b9c73bd00472f7cd469480837e06ea73f47d88",
        "MIT",
        "Florian Körner",
    ),
    "dicebear-styles": (
        "10.6.0",
        "5a5b0b9c534d133fa06f1dd29f280139995965b32b08c5635a69cc6afc30930d",
        "MIT",
        "Florian Körner",
    ),
}
"""Version, sha256 of the wheel, licence and author of what draws; each style has its own licence."""

Options = dict[str, Any]
"""Options of the drawing library: ``<part>Variant``, ``<part>Probability``, ``<colour>Color``."""
Point = list[float] | None
"""``[x, y]`` in 0..1 of the cell; None where the style has no such part."""


@dataclass(frozen=True)
class Person:
    """One identity: the options that every drawing of it shares."""

    options: Options
    words: dict[str, Any]
    glasses: Options
    hat: Options


def settings() -> dict[str, Any]:
    """The contents of ``people.toml``."""
    return tomllib.loads(files(__package__).joinpath("people.toml").read_text("utf-8"))


def check_packages() -> None:
    """Refuse another version of the drawing packages than the pinned one."""
    for name, (version, *_) in PACKAGES.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise ModuleNotFoundError(
                f"{name} is missing: pip install 'pcs-mini[pack]'", name=name
            ) from None
        if installed != version:
            raise ValueError(
                f"{name} is {installed}, expected {version}: pip install {name}=={version}, "
                "or change PACKAGES in world/build/people.py"
            )


class AvatarStyle:
    """One drawing style: its file, its parts, its colours."""

    def __init__(self, word: str, table: dict[str, Any], colours: dict[str, Any]) -> None:
        from dicebear import Style

        data = files("dicebear_styles").joinpath(table["file"]).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != table["sha256"]:
            raise ValueError(
                f"{table['file']} has sha256 {digest}, expected {table['sha256']}: install the "
                f"pinned dicebear-styles, or change [styles.{word}] in people.toml"
            )
        self.word, self.table, self.colours = word, table, colours
        self.definition: dict[str, Any] = json.loads(data)
        self._check_names()
        self._style = Style(self.definition)
        self._measured: dict[str, list[Point]] = {}

    def _check_names(self) -> None:
        """A misspelt variant would vanish from the drawing in silence."""
        for component, variant in self.named_variants():
            known = self.definition["components"].get(component, {}).get("variants", {})
            if variant not in known:
                near = difflib.get_close_matches(variant, known, n=1)
                hint = f", did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"people.toml: [styles.{self.word}]: {self.table['file']} has no "
                    f"{component} {variant!r}{hint}"
                )

    def named_variants(self) -> Iterator[tuple[str, str]]:
        """Every (component, variant) that the style's table names."""
        table = self.table
        for part in (table["hair"], table["facial_hair"]):
            for group in part.values():
                if not isinstance(group, str):
                    yield from ((part["component"], variant) for variant in group)
        for group in ("glasses_parts", "hat_parts", "extras"):
            for component, variants in table.get(group, {}).items():
                yield from ((component, variant) for variant in variants)
        choices = [table.get("parts", {}), table["always"], table.get("face", {}).get("bare", {})]
        for options in [*choices, *table["expressions"].values()]:
            for option, value in options.items():
                if option.endswith("Variant"):
                    for variant in [value] if isinstance(value, str) else value:
                        yield option.removesuffix("Variant"), variant

    @cached_property
    def optional(self) -> list[str]:
        """The parts that the library draws or leaves out by chance unless it is told."""
        components = self.definition["components"]
        return [name for name, part in components.items() if "probability" in part]

    def draw(self, options: Options, px: int = CELL_PX) -> Image.Image:
        """One RGBA drawing of `px` x `px`: the style's window, transparent around the person."""
        import resvg_py
        from dicebear import Avatar

        absent = {f"{name}Probability": 0 for name in self.optional}
        fixed = {"seed": self.word, "backgroundColor": [], **absent, **self.table["always"]}
        svg = Avatar(self._style, {**fixed, **options}).to_string()
        view = self.definition["canvas"]
        whole = f'viewBox="0 0 {view["width"]} {view["height"]}"'
        if svg.count(whole) != 1:
            raise ValueError(f"{self.table['file']}: the drawing has no {whole}")
        left, top, side = self.table["window"]
        svg = svg.replace(whole, f'viewBox="{left} {top} {side} {side}"')
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=px, height=px))
        return Image.open(io.BytesIO(png)).convert("RGBA")

    def uses_colour(self, component: str, variant: str, colour: str) -> bool:
        """Whether a variant is drawn with the named colour."""
        body = json.dumps(self.definition["components"][component]["variants"][variant])
        return f'"type": "color", "name": "{colour}"' in body

    def points(self, person: Options, expression: str) -> list[Point]:
        """Left eye, right eye, nose, left and right mouth corner, as the viewer sees them."""
        if "points" in self.table:
            left, top, side = self.table["window"]
            given = self.table["points"][expression]
            return [[round((x - left) / side, 3), round((y - top) / side, 3)] for x, y in given]
        face = self.table["face"]
        components = [face["eyes"], face.get("nose", ""), face["mouth"]]
        options = {**person, **self.table["expressions"][expression]}
        key = json.dumps([options.get(f"{component}Variant") for component in components])
        if key not in self._measured:
            self._measured[key] = self._measure(components, options)
        return self._measured[key]

    def _measure(self, components: list[str], options: Options) -> list[Point]:
        """Where each part is: the pixels that change when it is left out of a bare pale face."""
        options = {
            **options,
            **{f"{name}Probability": 0 for name in self.optional},
            **{f"{name}Probability": 100 for name in components if name},
            **{name: [self.colours["skin"]["pale"]] for name in self.table["skin"]},
            **self.table["face"]["bare"],
        }
        whole = np.asarray(self.draw(options, POINT_PX)).astype(int)
        places: list[NDArray[np.int64] | None] = []
        for component in components:
            if not component:
                places.append(None)
                continue
            without = np.asarray(self.draw({**options, f"{component}Probability": 0}, POINT_PX))
            places.append(np.argwhere(np.abs(whole - without).max(axis=-1) > 8)[:, ::-1])
        eyes, nose, mouth = places
        if eyes is None or mouth is None or not len(eyes) or not len(mouth):
            raise ValueError(
                f"people.toml: [styles.{self.word}.face]: no eyes or no mouth is drawn"
            )
        return [*_two_eyes(eyes), None if nose is None else _middle(nose), *_corners(mouth)]


def _unit(x: float, y: float) -> list[float]:
    return [round((float(c) + 0.5) / POINT_PX, 3) for c in (x, y)]


def _middle(pixels: NDArray[np.int64]) -> list[float]:
    return _unit(*((pixels.min(axis=0) + pixels.max(axis=0)) / 2))


def _two_eyes(pixels: NDArray[np.int64]) -> list[list[float]]:
    """Middles of the two groups on both sides of the widest empty gap."""
    columns = np.unique(pixels[:, 0])
    gap = int(np.argmax(np.diff(columns)))
    left = pixels[:, 0] <= columns[gap]
    return [_middle(pixels[left]), _middle(pixels[~left])]


def _corners(pixels: NDArray[np.int64]) -> list[list[float]]:
    """Outermost pixels to the left and to the right, at the mean height of their column."""
    ends = (pixels[:, 0].min(), pixels[:, 0].max())
    return [_unit(x, pixels[pixels[:, 0] == x, 1].mean()) for x in ends]


def _shown(component: str, variant: str) -> Options:
    return {f"{component}Variant": variant, f"{component}Probability": 100}


def _pick_part(rng: random.Random, parts: dict[str, list[str]]) -> Options:
    options: Options = {}
    for component, variants in parts.items():
        options |= _shown(component, rng.choice(variants))
    return options


def _colour(options: Options, names: list[str], value: str) -> None:
    for name in names:
        options[name] = [value]


def random_person(style: AvatarStyle, rng: random.Random) -> Person:
    """One identity drawn at random, with the words that describe it.

    The words are ``hair`` (a colour, "no", or "" when something covers it), ``hair_style``
    (short, long, curly, tied, no or ""), ``skin``, ``clothing`` ("" when none is drawn),
    ``headwear`` ("" or a noun), ``beard`` and ``moustache`` (bool).
    """
    table, palette = style.table, style.colours
    options = {name: rng.choice(variants) for name, variants in table.get("parts", {}).items()}
    for component, variants in table.get("extras", {}).items():
        if rng.random() < EXTRA_SHARE:
            options |= _shown(component, rng.choice(variants))
    words: dict[str, Any] = {"headwear": "", "beard": False, "moustache": False}
    for word, names, colours in (
        ("skin", table["skin"], palette["skin"]),
        ("hair", table["hair_colour"], palette["hair"]),
        ("clothing", table["clothing"], palette["clothing"]),
    ):
        words[word] = rng.choice(list(colours))
        _colour(options, names, colours[words[word]])
    if not table["clothing"]:
        words["clothing"] = ""
    hat_colour = rng.choice(list(palette["clothing"].values()))
    _colour(options, table.get("hat_colour", []), hat_colour)
    options |= _hair(style, rng, words, options)
    options |= _facial_hair(style, rng, words)
    glasses = _pick_part(rng, table["glasses_parts"])
    return Person(options, words, glasses, _pick_part(rng, table.get("hat_parts", {})))


def _hair(
    style: AvatarStyle, rng: random.Random, words: dict[str, Any], options: Options
) -> Options:
    hair = style.table["hair"]
    groups = {
        variant: name
        for name in ("short", "long", "curly", "tied", "no", "headwear")
        for variant in hair.get(name, ())
    }
    variant = rng.choice(list(groups))
    words["hair_style"] = groups[variant]
    if groups[variant] == "headwear":
        words["hair_style"] = words["hair"] = ""
        words["headwear"] = hair["headwear"][variant]
    elif groups[variant] == "no":
        words["hair"] = "no"
    elif not style.uses_colour(hair["component"], variant, hair["colour"]):
        words["hair"] = hair["uncoloured"]
        _colour(options, style.table["hair_colour"], style.colours["hair"][hair["uncoloured"]])
    return _shown(hair["component"], variant)


def _facial_hair(style: AvatarStyle, rng: random.Random, words: dict[str, Any]) -> Options:
    """A beard or a moustache for some; never in another colour than the hair."""
    part, colour = style.table["facial_hair"], style.table["hair"]["colour"]
    if words["hair_style"] not in ("short", "no") or rng.random() >= FACIAL_HAIR_SHARE:
        return {}
    black = words["hair"] == "black"
    ink = style.table["hair"].get("uncoloured") == "black"
    variants = [
        (kind, variant)
        for kind in ("beard", "moustache")
        for variant in part.get(kind, ())
        if words["hair"] not in part.get("hides_mouth", {}).get(variant, ())
        if not ink or black or style.uses_colour(part["component"], variant, colour)
    ]
    if not variants:
        return {}
    kind, variant = rng.choice(variants)
    words[kind] = True
    return _shown(part["component"], variant)


def _thumbnail(style: AvatarStyle, person: Person) -> NDArray[np.float32]:
    """The neutral drawing at 32 pixels on mid gray, ``[3072]``."""
    neutral = style.table["expressions"]["neutral"]
    drawing = style.draw({**person.options, **neutral}).resize((32, 32), Image.Resampling.BOX)
    ground = Image.new("RGBA", drawing.size, (128, 128, 128, 255))
    ground.alpha_composite(drawing)
    return np.asarray(ground.convert("RGB"), np.float32).ravel()


def choose_people(style: AvatarStyle, count: int, seed: int) -> list[Person]:
    """`count` identities that look far apart, in an order without meaning.

    Of ``CANDIDATES`` times as many random identities, each next one is the farthest from those
    that are chosen, in mean absolute difference of its neutral drawing.
    """
    rng = random.Random(f"{seed} {style.word}")
    people = [random_person(style, rng) for _ in range(count * CANDIDATES)]
    looks = np.stack([_thumbnail(style, person) for person in people])
    chosen, nearest = [0], np.full(len(people), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.abs(looks - looks[chosen[-1]]).mean(axis=1))
        chosen.append(int(nearest.argmax()))
    rng.shuffle(chosen)
    return [people[i] for i in chosen]


def _encode(sheet: Image.Image) -> bytes:
    """Lossless WebP: the cells of a sheet repeat each other, which makes it smaller than lossy."""
    pixels = np.array(sheet)
    pixels[pixels[..., 3] == 0] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "WEBP", lossless=True, quality=100, method=4)
    return buffer.getvalue()


def draw_person(style: AvatarStyle, person: Person) -> tuple[bytes, list[dict[str, Any]]]:
    """The sheet of one identity, row-major in ``COLUMNS`` columns, and what each cell shows."""
    cells, variations = [], []
    for wear, worn in (("plain", {}), ("glasses", person.glasses), ("hat", person.hat)):
        for expression in style.table.get(wear, []):
            face = style.table["expressions"][expression]
            cells.append(style.draw({**person.options, **face, **worn}))
            variations.append(
                {
                    "expression": expression,
                    "glasses": wear == "glasses",
                    "hat": wear == "hat",
                    "points": style.points(person.options, expression),
                }
            )
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL_PX, rows * CELL_PX))
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % COLUMNS * CELL_PX, i // COLUMNS * CELL_PX))
    return _encode(sheet), variations


def is_held_out(number: int, count: int, table: dict[str, Any]) -> bool:
    """Whether training never draws an identity: the last sixth of a style, or the whole style."""
    return bool(table["held_out"]) or number >= count - -(-count // 6)


def build(packages: Path, report: Callable[[str], None], *, limit: int | None = None) -> Family:
    """Draw every style's people.

    Parameters
    ----------
    packages
        Not read: the drawing packages are installed with ``pcs-mini[pack]``.
    report
        Takes one line per style.
    limit
        Identities per style; None draws all.

    Raises
    ------
    ModuleNotFoundError
        A drawing package is not installed.
    ValueError
        A package has another version or a style another checksum than the pinned one, or
        ``people.toml`` names a part that the style lacks.
    """
    check_packages()
    table = settings()
    entries: dict[str, bytes] = {}
    index: dict[str, Any] = {}
    sources: list[dict[str, Any]] = [
        {
            "package": name,
            "version": version,
            "sha256": sha256,
            "licence": licence,
            "author": author,
        }
        for name, (version, sha256, licence, author) in PACKAGES.items()
    ]
    for word, style_table in table["styles"].items():
        style = AvatarStyle(word, style_table, table["colours"])
        count = min(style_table["identities"], limit or style_table["identities"])
        index[word] = {}
        for i, person in enumerate(choose_people(style, count, table["seed"])):
            name = f"{word}_{i:02d}"
            file = f"people/{word}/{name}.webp"
            entries[file], variations = draw_person(style, person)
            index[word][name] = {
                "cell": CELL_PX,
                "file": file,
                "columns": COLUMNS,
                "held_out": is_held_out(i, count, style_table),
                "words": dict(sorted(person.words.items())),
                "variations": variations,
            }
        sources.append(_source(word, style))
        size = sum(len(data) for file, data in entries.items() if f"/{word}/" in file)
        report(f"{word}: {count} people, {size / 1e6:.1f} MB")
    return Family(entries, index, sources)


def _source(word: str, style: AvatarStyle) -> dict[str, Any]:
    table, meta = style.table, style.definition["meta"]
    return {
        "package": "dicebear-styles",
        "version": PACKAGES["dicebear-styles"][0],
        "file": table["file"],
        "sha256": table["sha256"],
        "licence": table["licence"],
        "author": table["author"],
        "credit": meta["license"].get("text", ""),
        "url": meta["source"].get("url", ""),
        "style": word,
    }
