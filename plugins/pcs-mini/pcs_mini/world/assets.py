"""Reading the world's archive: drawings, solids, people and panoramas, decoded on demand."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcs_core.errors import InputError, nearest
from pcs_core.hookspecs import ENTRY_POINT_GROUP
from pcs_core.small_files import read_text

SLICE_FILE = Path(__file__).parent / "slice.zip"
"""The validation slice inside this distribution: the same format, smaller."""
SUMS = "shipped.sha256"
"""Beside a shipped archive, as ``sha256sum`` writes it; `scripts/shipped_sums.py` makes it."""
DATASET = "mini.world"
"""Id under which a distribution names the whole archive."""
CACHE_BYTES = 256 * 2**20
"""Decoded pictures kept, in bytes; the ones used longest ago go first."""

Pixels = NDArray[np.uint8]


class AssetsError(InputError):
    """An archive that cannot be read, or a thing that it does not hold."""


@dataclass(frozen=True)
class Drawn:
    """One concept drawn flat, in one or more styles."""

    category: str
    styles: Mapping[str, str]
    """Style word -> file."""


@dataclass(frozen=True)
class Solid:
    """One object seen from several sides."""

    category: str
    facing: str | None
    """What azimuth 0 shows: ``front``, ``side``, or None where nobody could say."""
    symmetric: bool
    """Whether it looks alike from all sides."""
    views: tuple[tuple[float, float], ...]
    """Azimuth and elevation of each cell, in degrees."""
    file: str
    depth: str
    cell: int
    """Side of a cell in pixels."""
    credit: str


@dataclass(frozen=True)
class Variation:
    """One picture of an identity."""

    expression: str
    glasses: bool
    hat: bool
    points: NDArray[np.float64] | None
    """``[5, 2]``, 0..1 of the cell: left eye, right eye, nose, left and right corner of the mouth.

    Left and right are the viewer's. A point that a style does not draw is NaN.
    """


@dataclass(frozen=True)
class Person:
    """One identity in one style."""

    file: str
    cell: int
    columns: int
    words: Mapping[str, Any]
    """What can be said of the identity, as in ``{"hair": "red", "beard": False}``."""
    variations: tuple[Variation, ...]
    held_out: bool


class Assets:
    """An archive of the world.

    The file is read once as a whole, so that a forked process shares no file position. Pictures
    are decoded when first asked for.
    """

    def __init__(self, path: Path, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.path = path
        try:
            self._bytes = path.read_bytes()
            check_shipped_archive(path, self.sha256)
            self._archive = zipfile.ZipFile(io.BytesIO(self._bytes))
            self.index: dict[str, Any] = json.loads(self._archive.read("index.json"))
        except FileNotFoundError:
            raise AssetsError(
                f"no archive of the world at {path}: make it with `pcs mini pack`"
            ) from None
        except (zipfile.BadZipFile, KeyError, ValueError) as broken:
            raise AssetsError(f"{path} is no archive of the world ({broken})") from None
        self._limit = cache_bytes
        self._decoded_bytes = 0
        self._decoded: OrderedDict[str, Pixels] = OrderedDict()

    @cached_property
    def sha256(self) -> str:
        """Of the whole file."""
        return hashlib.sha256(self._bytes).hexdigest()

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Package, version, licence and author of everything in the archive."""
        return list(self.index.get("sources", []))

    @cached_property
    def drawn(self) -> dict[str, Drawn]:
        """Concept -> its drawings."""
        return {
            name: Drawn(about["category"], dict(about["styles"]))
            for name, about in sorted(self.index.get("drawn", {}).items())
        }

    @cached_property
    def solids(self) -> dict[str, Solid]:
        """Concept -> its views."""
        return {name: _solid(about) for name, about in sorted(self.index.get("solids", {}).items())}

    @cached_property
    def people(self) -> dict[str, dict[str, Person]]:
        """Style word -> identity -> person."""
        return {
            style: {name: _person(about) for name, about in sorted(those.items())}
            for style, those in sorted(self.index.get("people", {}).items())
        }

    @cached_property
    def panoramas(self) -> dict[str, str]:
        """Place -> file of an equirectangular picture."""
        return {
            name: about["file"] for name, about in sorted(self.index.get("panoramas", {}).items())
        }

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word that the archive's names bring, also of what a slice of it leaves out."""
        names: set[str] = set(self.index.get("words", ()))
        categories = {concept: about.category for concept, about in self.drawn.items()}
        categories |= {concept: about.category for concept, about in self.solids.items()}
        for concept in (*self.drawn, *self.solids):
            names |= {*concept.split(), *categories[concept].split()}
        for drawing in self.drawn.values():
            names |= set(drawing.styles)
        if self.solids:
            names.add("solid")
        for style, those in self.people.items():
            names.add(style)
            for person in those.values():
                for said in (*person.words.values(), *(v.expression for v in person.variations)):
                    names |= set(said.split()) if isinstance(said, str) else set()
        return tuple(sorted(names))

    def category(self, concept: str) -> str:
        """The kind of thing that `concept` is, as in ``animal``."""
        if concept in self.drawn:
            return self.drawn[concept].category
        return self._solid(concept).category

    def drawing(self, concept: str, style: str) -> Pixels:
        """The drawing, ``[h, w, 4]``, cropped to what is visible."""
        about = self.drawn.get(concept)
        if about is None or style not in about.styles:
            hint = nearest(concept, self.drawn) if about is None else nearest(style, about.styles)
            raise AssetsError(f"{self.path.name} has no {style!r} drawing of {concept!r}{hint}")
        return self._picture(about.styles[style])

    def solid_view(self, concept: str, view: int) -> tuple[Pixels, Pixels]:
        """View number `view`: picture ``[c, c, 4]`` and depth ``[c, c]`` (255 near, 0 empty)."""
        about = self._solid(concept)
        if not 0 <= view < len(about.views):
            raise AssetsError(f"{concept!r} has views 0 to {len(about.views) - 1}, not {view}")
        here = slice(view * about.cell, (view + 1) * about.cell)
        depth = self._picture(about.depth, "L")
        return self._picture(about.file)[:, here], depth[:, here]

    def person_view(self, style: str, identity: str, variation: int) -> Pixels:
        """The cell of one variation, ``[c, c, 4]``."""
        about = self.people.get(style, {}).get(identity)
        if about is None or not 0 <= variation < len(about.variations):
            raise AssetsError(
                f"{self.path.name} has no variation {variation} of {identity!r} in {style!r}"
            )
        row, column = divmod(variation, about.columns)
        c = about.cell
        sheet = self._picture(about.file)
        return sheet[row * c : (row + 1) * c, column * c : (column + 1) * c]

    def panorama(self, place: str) -> Pixels:
        """The equirectangular picture, ``[h, 2 h, 3]``."""
        if place not in self.panoramas:
            raise AssetsError(
                f"{self.path.name} has no panorama {place!r}{nearest(place, self.panoramas)}"
            )
        return self._picture(self.panoramas[place], "RGB")

    def _solid(self, concept: str) -> Solid:
        if concept not in self.solids:
            raise AssetsError(
                f"{self.path.name} has no solid {concept!r}{nearest(concept, self.solids)}"
            )
        return self.solids[concept]

    def _picture(self, file: str, mode: str = "RGBA") -> Pixels:
        pixels = self._decoded.get(file)
        if pixels is not None:
            self._decoded.move_to_end(file)
            return pixels
        try:
            data = self._archive.read(file)
        except KeyError:
            raise AssetsError(f"{self.path.name} names {file}, which it does not hold") from None
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert(mode))
        self._decoded[file] = pixels
        self._decoded_bytes += pixels.nbytes
        while self._decoded_bytes > self._limit and len(self._decoded) > 1:
            self._decoded_bytes -= self._decoded.popitem(last=False)[1].nbytes
        return pixels


def check_shipped_archive(path: Path, sha256: str) -> None:
    """Compare an archive with the hash that a distribution ships beside it, if it does.

    Raises
    ------
    AssetsError
        It is another file.
    """
    sums = path.with_name(SUMS)
    if not sums.is_file():
        return  # a user's own
    for line in read_text(sums).splitlines():
        expected, _, name = line.partition("  ")
        if name == path.name and expected != sha256:
            raise AssetsError(f"{path} is not the file that was shipped: reinstall its package")


def open_assets(path: Path | None = None) -> Assets:
    """The archive at `path`; without one the installed archive, else the validation slice.

    Raises
    ------
    AssetsError
        If there is no archive, or the file is none.
    """
    return Assets(path or installed_archive() or SLICE_FILE)


def installed_archive() -> Path | None:
    """The file that an installed distribution names under ``mini.world``; None without one."""
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name != "mini-world":
            continue
        where = point.load().datasets()[DATASET]
        module, attribute = where.split(":")
        path = getattr(importlib.import_module(module), attribute)()
        if path.exists():
            return path
    return None


def _solid(about: Mapping[str, Any]) -> Solid:
    return Solid(
        category=about["category"],
        facing=about.get("facing"),
        symmetric=bool(about.get("symmetric", False)),
        views=tuple((float(a), float(e)) for a, e in about["views"]),
        file=about["file"],
        depth=about["depth"],
        cell=about["cell"],
        credit=about.get("credit", ""),
    )


def _points(given: list[list[float] | None] | None) -> NDArray[np.float64] | None:
    if given is None:
        return None
    return np.array([point or (np.nan, np.nan) for point in given], np.float64)


def _person(about: Mapping[str, Any]) -> Person:
    variations = tuple(
        Variation(
            expression=v.get("expression") or "",
            glasses=bool(v.get("glasses")),
            hat=bool(v.get("hat")),
            points=_points(v.get("points")),
        )
        for v in about["variations"]
    )
    return Person(
        file=about["file"],
        cell=about["cell"],
        columns=about["columns"],
        words=dict(about.get("words", {})),
        variations=variations,
        held_out=bool(about.get("held_out", False)),
    )
