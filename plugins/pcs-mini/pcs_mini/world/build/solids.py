"""Solid objects seen from all sides: models of the Debian package ``sweethome3d-furniture``.

Which models, under which names: ``solids.toml``. Each becomes a sheet of views on a turntable
(see `VIEWS`) and a sheet of their depths. An object has the same zoom in all its views.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pcs_mini.world.build.family import Family
from pcs_mini.world.build.rasterise import DISTANCE, View, render, zoom_to_fit
from pcs_mini.world.build.wavefront import Fetch, Mesh, read_obj

CELL = 96
"""Pixels a side of one view."""
AZIMUTHS = tuple(range(0, 360, 30))
ELEVATIONS = (10, 35)
VIEWS: list[tuple[float, float]] = [(a, e) for e in ELEVATIONS for a in AZIMUTHS]
"""(azimuth, elevation) of each cell, in degrees: azimuth 0 before the front, 90 at its left."""
SYMMETRIC_BELOW = 0.06
"""Mean change between views 90 degrees apart under which an object shows no viewpoint."""
COLOUR_QUALITY = 70
DEPTH_QUALITY = 40


@dataclass(frozen=True)
class Solid:
    """One model to pack."""

    concept: str
    category: str
    library: str
    model: int
    turn: float = 0.0
    """Degrees about the vertical that bring the front to azimuth 0."""
    front: bool = True
    """Whether it has a front at all."""


def solids(table: dict[str, Any] | None = None) -> list[Solid]:
    """The models of ``solids.toml``, in its order."""
    table = _table() if table is None else table
    by_concept: dict[str, Solid] = {}
    for library, models in table["solids"].items():
        if library not in table["libraries"]:
            known = ", ".join(table["libraries"])
            raise ValueError(f"solids.toml: unknown library {library!r}; there are {known}")
        for concept, entry in models.items():
            if concept in by_concept:
                other = by_concept[concept].library
                raise ValueError(f"solids.toml: {concept!r} is in {other} and {library}: rename")
            by_concept[concept] = Solid(concept, library=library, **entry)
    return list(by_concept.values())


def _table() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("solids.toml").read_text())


def _members_of_ar(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a Unix ``ar`` archive, the outer shell of a Debian package (deb(5))."""
    at = 8
    while at + 60 <= len(data):
        name, size = data[at : at + 16].decode().strip().rstrip("/"), int(data[at + 48 : at + 58])
        yield name, data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def open_libraries(
    packages: Path, package: dict[str, str], names: list[str]
) -> dict[str, zipfile.ZipFile]:
    """The furniture libraries inside the pinned package in the folder `packages`."""
    path = packages / package["file"]
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: `apt-get download {package['name']}={package['version']}` there"
        )
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != package["sha256"]:
        raise ValueError(
            f"{path} has sha256 {digest}, expected {package['sha256']}: fetch version "
            f"{package['version']}, or change solids.toml"
        )
    contents = next(body for name, body in _members_of_ar(data) if name.startswith("data.tar"))
    libraries: dict[str, zipfile.ZipFile] = {}
    with tarfile.open(fileobj=io.BytesIO(contents)) as tar:
        for member in tar:
            stem = Path(member.name).stem
            if member.name.endswith(".sh3f") and stem in names:
                body = tar.extractfile(member)
                assert body is not None
                libraries[stem] = zipfile.ZipFile(io.BytesIO(body.read()))
    return libraries


def read_catalogue(text: str) -> dict[int, dict[str, str]]:
    """A library's ``PluginFurnitureCatalog.properties``: number -> key -> value."""
    entries: dict[int, dict[str, str]] = {}
    for line in text.splitlines():
        matched = re.match(r"([A-Za-z]+)#(\d+)\s*=\s*(.*)", line)
        if matched:
            key, number, value = matched.groups()
            value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value)
            entries.setdefault(int(number), {})[key] = value.strip()
    return entries


def _fetch_of(library: zipfile.ZipFile) -> Fetch:
    """Paths are found whatever their case: the authors worked on a system that ignores it."""
    names = {name.lower(): name for name in library.namelist()}

    def fetch(path: str) -> bytes | None:
        name = names.get(path.lower().lstrip("/"))
        return None if name is None else library.read(name)

    return fetch


def load(solid: Solid, facts: dict[str, str], fetch: Fetch) -> Mesh:
    """The model as the catalogue describes it: turned, stretched to its size, radius 1."""
    mesh = read_obj(facts["model"].lstrip("/"), fetch)
    if "modelRotation" in facts:
        values = [float(value) for value in facts["modelRotation"].split()]
        mesh = mesh.turned(np.array(values).reshape(3, 3))
    mesh = mesh.fitted((float(facts["width"]), float(facts["height"]), float(facts["depth"])))
    c, s = np.cos(np.radians(solid.turn)), np.sin(np.radians(solid.turn))
    return mesh.turned(np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]))


def change(first: View, second: View) -> float:
    """Mean absolute difference, 0..1, over the pixels that either view shows."""
    a, b = (v.rgba.astype(np.float64) / 255 for v in (first, second))
    for view in (a, b):
        view[..., :3] *= view[..., 3:]
    shown = (a[..., 3] > 0) | (b[..., 3] > 0)
    return float(np.abs(a - b)[shown].mean()) if shown.any() else 0.0


def is_symmetric(views: dict[tuple[float, float], View]) -> bool:
    """Whether quarter turns hardly change what is seen."""
    changes = [
        change(view, views[(azimuth + 90) % 360, elevation])
        for (azimuth, elevation), view in views.items()
    ]
    return float(np.mean(changes)) < SYMMETRIC_BELOW


def depth_levels(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """8-bit depth: 255 at the front of the bounding sphere, 1 at its back, 0 where empty."""
    level = np.rint(1 + (DISTANCE + 1 - depth) / 2 * 254).clip(1, 255)
    return np.where(np.isfinite(depth), level, 0).astype(np.uint8)


def _webp(cells: list[npt.NDArray[np.uint8]], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(cells, axis=1)).save(
        buffer, "WEBP", quality=quality, alpha_quality=80, method=4
    )
    return buffer.getvalue()


def _pack(solid: Solid, mesh: Mesh) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The two sheets of one object, and its line of the index."""
    zoom = zoom_to_fit(mesh, VIEWS)
    views = {view: render(mesh, *view, size=CELL, zoom=zoom) for view in VIEWS}
    stem = f"solids/{solid.concept.replace(' ', '_')}"
    entries = {
        f"{stem}.webp": _webp([view.rgba for view in views.values()], COLOUR_QUALITY),
        f"{stem}.depth.webp": _webp(
            [depth_levels(view.depth) for view in views.values()], DEPTH_QUALITY
        ),
    }
    symmetric = is_symmetric(views)
    return entries, {
        "category": solid.category,
        "facing": "front" if solid.front and not symmetric else None,
        "symmetric": symmetric,
        "views": [list(view) for view in VIEWS],
        "file": f"{stem}.webp",
        "depth": f"{stem}.depth.webp",
        "cell": CELL,
    }


def build(packages: Path, report: Callable[[str], None], *, limit: int | None = None) -> Family:
    """Render the models (the first `limit` of them) of the package in the folder `packages`."""
    table = _table()
    package, licences = table["package"], table["libraries"]
    libraries = open_libraries(packages, package, list(licences))
    catalogues = {
        name: read_catalogue(library.read("PluginFurnitureCatalog.properties").decode("latin1"))
        for name, library in libraries.items()
    }
    fetches = {name: _fetch_of(library) for name, library in libraries.items()}
    entries: dict[str, bytes] = {}
    index: dict[str, Any] = {}
    creators: dict[str, set[str]] = {}
    for solid in solids(table)[:limit]:
        facts = catalogues[solid.library][solid.model]
        mesh = load(solid, facts, fetches[solid.library])
        sheets, line = _pack(solid, mesh)
        credit = facts.get("creator") or licences[solid.library]["authors"]
        creators.setdefault(solid.library, set()).add(credit)
        entries.update(sheets)
        index[solid.concept] = {
            **line,
            "credit": f"{credit}, {licences[solid.library]['licence']}",
        }
        missing = f"; missing: {', '.join(mesh.missing)}" if mesh.missing else ""
        kilobytes = "+".join(f"{len(sheet) / 1024:.0f}" for sheet in sheets.values())
        report(f"{solid.concept}: {len(mesh.faces)} faces, {kilobytes} kB{missing}")
    sources = [
        {
            "package": package["name"],
            "version": package["version"],
            "sha256": package["sha256"],
            "library": name,
            "licence": licences[name]["licence"],
            "author": ", ".join(sorted(authors)),
        }
        for name, authors in creators.items()
    ]
    return Family(entries, index, sources)
