"""Read a Wavefront OBJ with its MTL into a mesh of coloured triangles.

Formats: Wavefront Technologies, "Object Files (.obj)" and "Material Template Library (.mtl)",
Advanced Visualizer manual, appendix B. Read here: ``v``, ``vt``, ``f`` (fan of triangles),
``usemtl``, ``mtllib``; of a material ``Kd``, ``d`` and ``map_Kd``. Normals are computed, because
most published files hold none and their winding is not reliable.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Fetch = Callable[[str], bytes | None]
"""Gives a file's bytes by its path, or None where there is no such file."""

GREY = (0.75, 0.75, 0.75)
TEXTURE_PX = 256
"""Larger textures are shrunk: at sprite size they would only shimmer."""
CREASE = 0.6
"""Cosine of the angle above which an edge stays sharp, about 53 degrees."""


@dataclass(frozen=True)
class Material:
    """What a triangle looks like."""

    colour: tuple[float, float, float] = GREY
    """RGB, 0..1; not used where there is a texture."""
    opacity: float = 1.0
    texture: npt.NDArray[np.float32] | None = None
    """H x W x 3 or H x W x 4 (with alpha), 0..1, row 0 at the top."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with one material each; y is up, the front looks to +z."""

    vertices: Floats
    """V x 3."""
    faces: Ints
    """F x 3 indices into `vertices`."""
    coordinates: Floats
    """T x 2 texture coordinates, v upwards; a texture repeats outside 0..1."""
    face_coordinates: Ints
    """F x 3 indices into `coordinates`; -1 where a corner has none."""
    face_materials: Ints
    """F indices into `materials`."""
    materials: tuple[Material, ...]
    missing: tuple[str, ...] = field(default=())
    """What the files name and do not hold; the material's plain colour stands in."""

    @cached_property
    def normals(self) -> Floats:
        """F x 3 x 3 unit normals per corner: smooth, but sharp at a crease."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        flat = np.cross(b - a, c - a)
        smooth = np.zeros_like(self.vertices)
        for i in range(3):
            np.add.at(smooth, self.faces[:, i], flat)
        corner, flat = _unit(smooth)[self.faces], _unit(flat)[:, None]
        keep = (corner * flat).sum(-1, keepdims=True) > CREASE
        return np.where(keep, corner, flat)

    def fitted(self, size: tuple[float, float, float] | None = None) -> Mesh:
        """Box stretched to `size` (width, height, depth), centred, bounding radius 1."""
        used = self.vertices[np.unique(self.faces)]
        low, high = used.min(0), used.max(0)
        scale = np.ones(3) if size is None else np.asarray(size) / np.maximum(high - low, 1e-9)
        radius = np.linalg.norm((used - (low + high) / 2) * scale, axis=1).max()
        return replace(self, vertices=(self.vertices - (low + high) / 2) * scale / radius)

    def turned(self, matrix: Floats) -> Mesh:
        """Every vertex multiplied by the 3 x 3 `matrix`."""
        return replace(self, vertices=self.vertices @ matrix.T)


def _unit(vectors: Floats) -> Floats:
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-12)


def _texture(path: str, fetch: Fetch) -> npt.NDArray[np.float32] | None:
    data = fetch(path)
    if data is None:
        return None
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        alpha = "A" in image.getbands() or "transparency" in image.info
        image = image.convert("RGBA" if alpha else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: not a readable picture ({error}); mend or drop it") from error
    image.thumbnail((TEXTURE_PX, TEXTURE_PX), Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32) / np.float32(255)


def read_materials(path: str, fetch: Fetch) -> tuple[dict[str, Material], list[str]]:
    """The materials of the MTL at `path` by name, and the textures it names in vain."""
    data = fetch(path)
    if data is None:
        return {}, [path]
    materials: dict[str, Material] = {}
    missing: list[str] = []
    name = ""
    for line in data.decode("latin1").splitlines():
        key, _, value = line.strip().partition(" ")
        value = value.strip()
        if key == "newmtl":
            name = value
            materials[name] = Material()
        elif name and key == "Kd":
            red, green, blue = (float(part) for part in value.split()[:3])
            materials[name] = replace(materials[name], colour=(red, green, blue))
        elif name and key == "d":
            materials[name] = replace(materials[name], opacity=float(value.split()[-1]))
        elif name and key == "map_Kd":
            # Authors leave paths of their own disk, with backslashes: the bare name may be there.
            written, folder = value.replace("\\", "/"), posixpath.dirname(path)
            for tried in (written, posixpath.basename(written)):
                texture = _texture(posixpath.normpath(posixpath.join(folder, tried)), fetch)
                if texture is not None:
                    materials[name] = replace(materials[name], texture=texture)
                    break
            else:
                missing.append(value)
    return materials, missing


def _index(text: str, count: int, what: str, place: str) -> int:
    """OBJ counts from 1, or backwards from -1."""
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{place}: a face names {what} {text!r}, not a number") from None
    index = number - 1 if number > 0 else count + number
    if number == 0 or not 0 <= index < count:
        raise ValueError(f"{place}: a face names {what} {number}, but there are {count} so far")
    return index


# long: one branch for each keyword of the format
def read_obj(path: str, fetch: Fetch) -> Mesh:
    """The mesh of the OBJ at `path`.

    A missing material or texture is listed in `Mesh.missing` and drawn in plain colour. A missing
    file, a face of a vertex that does not exist and a model without faces raise by name.
    """
    data = fetch(path)
    if data is None:
        raise FileNotFoundError(f"{path}: no such model in the library")
    vertices: list[list[float]] = []
    coordinates: list[list[float]] = []
    faces: list[tuple[int, int, int]] = []
    face_coordinates: list[tuple[int, int, int]] = []
    face_materials: list[int] = []
    names: list[str] = [""]
    known: dict[str, Material] = {"": Material()}
    missing: list[str] = []
    material = 0
    text = data.decode("latin1").replace("\\\r\n", " ").replace("\\\n", " ")
    for number, line in enumerate(text.splitlines(), 1):
        key, _, value = line.strip().partition(" ")
        if key == "v":
            vertices.append([float(part) for part in value.split()[:3]])
        elif key == "vt":
            coordinates.append([float(part) for part in (*value.split()[:2], "0")[:2]])
        elif key == "f":
            place = f"{path}:{number}"
            corners = [corner.split("/") for corner in value.split()]
            points = [_index(c[0], len(vertices), "vertex", place) for c in corners]
            marks = [
                _index(c[1], len(coordinates), "texture coordinate", place)
                if len(c) > 1 and c[1]
                else -1
                for c in corners
            ]
            for i in range(1, len(points) - 1):
                faces.append((points[0], points[i], points[i + 1]))
                face_coordinates.append((marks[0], marks[i], marks[i + 1]))
                face_materials.append(material)
        elif key == "usemtl":
            name = value.strip()
            if name not in names:
                names.append(name)
            material = names.index(name)
        elif key == "mtllib":
            library = posixpath.join(posixpath.dirname(path), value.strip())
            read, lacking = read_materials(posixpath.normpath(library), fetch)
            known.update(read)
            missing += lacking
    if not faces:
        raise ValueError(f"{path}: the model has no faces")
    missing += [f"material {name}" for name in names if name not in known]
    return Mesh(
        np.array(vertices, np.float64),
        np.array(faces, np.int64),
        np.array(coordinates, np.float64).reshape(-1, 2),
        np.array(face_coordinates, np.int64),
        np.array(face_materials, np.int64),
        tuple(known.get(name, Material()) for name in names),
        tuple(missing),
    )
