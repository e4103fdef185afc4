"""Rasterise a mesh in numpy: picture with alpha, depth and mask of one view.

Perspective-correct scan conversion with a depth buffer, sorted transparency and 2 x 2 samples a
pixel (Foley, van Dam et al., "Computer Graphics: Principles and Practice", chapters 3 and 15).
No display, no driver, the same bytes everywhere.

The key light moves with the camera, as if the object stood on a turntable under a fixed lamp:
two objects in one picture are then lit from the same side whatever their azimuths, and no view
lies in its own shadow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pcs_mini.world.build.wavefront import Floats, Ints, Mesh

FIELD_OF_VIEW = 30.0
"""Degrees; narrow, as of a lens for portraits."""
DISTANCE = 1.05 / np.sin(np.radians(FIELD_OF_VIEW) / 2)
"""From the camera to the object's centre, in bounding radii."""
SAMPLES = 2
"""Per pixel and direction."""
AMBIENT, KEY, SKY = 0.38, 0.55, 0.17
"""Light from everywhere, from the lamp and from above."""
OPAQUE, CUT = 0.98, 0.04
"""Alpha above which a surface hides what is behind, and below which it is not there."""
FAINTEST = 0.12
"""Glass is drawn with at least this alpha: clear panes would not be seen at all."""


@dataclass(frozen=True)
class View:
    """One picture of an object."""

    rgba: npt.NDArray[np.uint8]
    """S x S x 4, colour not multiplied by alpha and zero where alpha is zero."""
    depth: npt.NDArray[np.float32]
    """S x S distances along the line of sight in bounding radii; infinite where empty."""

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """S x S, true where at least half of the pixel is covered."""
        return self.rgba[..., 3] >= 128


@dataclass(frozen=True)
class _Fragments:
    """Samples of triangles: `pixel` is row * width + column."""

    triangle: Ints
    pixel: Ints
    weights: Floats
    depth: Floats


def _axes(azimuth: float, elevation: float) -> Floats:
    """Rows: right, up and towards the camera."""
    a, e = np.radians([azimuth, elevation])
    towards = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.stack([right, np.cross(towards, right), towards])


def _project(mesh: Mesh, axes: Floats) -> tuple[Floats, Floats]:
    """V x 2 positions (1 = half the picture's side, y up) and V distances."""
    camera = mesh.vertices @ axes.T
    distance = DISTANCE - camera[:, 2]
    tangent = np.tan(np.radians(FIELD_OF_VIEW) / 2)
    return camera[:, :2] / distance[:, None] / tangent, distance


def zoom_to_fit(mesh: Mesh, views: list[tuple[float, float]], margin: float = 0.03) -> float:
    """The largest zoom at which no view of a `fitted` mesh leaves the picture."""
    used = np.unique(mesh.faces)
    reach = max(np.abs(_project(mesh, _axes(*view))[0][used]).max() for view in views)
    return float((1 - margin) / reach)


def _spans(low: Floats, high: Floats, limit: int) -> tuple[Ints, Ints]:
    """Which item, and which whole number, for each sample centre between low and high."""
    first = np.clip(np.ceil(low - 0.5), 0, limit).astype(np.int64)
    last = np.clip(np.floor(high - 0.5), -1, limit - 1).astype(np.int64)
    count = np.maximum(last - first + 1, 0)
    item = np.repeat(np.arange(len(low)), count)
    return item, np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[item]


def _scan(xs: Floats, ys: Floats, inverse: Floats, width: int) -> _Fragments:
    """Scan conversion: rows of each triangle, then samples of each row."""
    row_triangle, row = _spans(ys.min(1), ys.max(1), width)
    centre = row + 0.5
    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        ya, yb = ys[row_triangle, i], ys[row_triangle, j]
        xa, xb = xs[row_triangle, i], xs[row_triangle, j]
        crosses = (ya <= centre) != (yb <= centre)
        x = xa + (centre - ya) / np.where(crosses, yb - ya, 1) * (xb - xa)
        left = np.where(crosses, np.minimum(left, x), left)
        right = np.where(crosses, np.maximum(right, x), right)
    inside = left <= right
    row_triangle, row = row_triangle[inside], row[inside]
    span, column = _spans(left[inside], right[inside], width)
    triangle, y = row_triangle[span], row[span]
    weights = _barycentric(xs[triangle], ys[triangle], column + 0.5, y + 0.5) * inverse[triangle]
    total = weights.sum(1)
    return _Fragments(triangle, y * width + column, weights / total[:, None], 1 / total)


def _barycentric(
    xs: Floats, ys: Floats, x: npt.NDArray[np.floating[Any]], y: npt.NDArray[np.floating[Any]]
) -> Floats:
    """N x 3 weights of the corners at each point."""
    (x0, x1, x2), (y0, y1, y2) = xs.T, ys.T
    area = (y1 - y2) * (x0 - x2) + (x2 - x1) * (y0 - y2)
    area = np.where(np.abs(area) < 1e-12, 1e-12, area)
    first = ((y1 - y2) * (x - x2) + (x2 - x1) * (y - y2)) / area
    second = ((y2 - y0) * (x - x2) + (x0 - x2) * (y - y2)) / area
    return np.clip(np.stack([first, second, 1 - first - second], 1), 0, 1)


def _surface(mesh: Mesh, fragments: _Fragments) -> tuple[Floats, Floats]:
    """N x 3 colours and N alphas before light."""
    colour, alpha = np.empty((len(fragments.pixel), 3)), np.empty(len(fragments.pixel))
    materials = mesh.face_materials[fragments.triangle]
    marked = (mesh.face_coordinates.min(1) >= 0)[fragments.triangle]
    for number, material in enumerate(mesh.materials):
        here = materials == number
        colour[here], alpha[here] = material.colour, material.opacity
        if material.texture is None:
            continue
        at = np.nonzero(here & marked)[0]
        corners = mesh.coordinates[mesh.face_coordinates[fragments.triangle[at]]]
        u, v = (corners * fragments.weights[at][:, :, None]).sum(1).T
        height, width, channels = material.texture.shape
        rows = np.floor((1 - v % 1) * height).astype(np.int64) % height
        texels = material.texture[rows, np.floor(u % 1 * width).astype(np.int64) % width]
        colour[at] = texels[:, :3]
        if channels == 4:
            alpha[at] *= texels[:, 3]
    return colour, alpha


def _light(normals: Floats, axes: Floats) -> Floats:
    """N brightnesses; a surface seen from behind is lit like its front."""
    right, up, towards = axes
    facing = np.where((normals @ towards)[:, None] < 0, -normals, normals)
    lamp = towards + 0.6 * up - 0.5 * right
    key = np.clip(facing @ (lamp / np.linalg.norm(lamp)), 0, 1)
    return AMBIENT + KEY * key + SKY * np.clip(facing[:, 1], 0, 1)


def _layers(pixel: Ints, depth: Floats) -> list[Ints]:
    """The samples in groups to paint one after the other: the n-th farthest of each pixel."""
    order = np.lexsort((-depth, pixel))
    starts = np.r_[True, pixel[order][1:] != pixel[order][:-1]] if len(order) else np.zeros(0, bool)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    rank = np.arange(len(order)) - first
    return [order[rank == n] for n in range(int(rank.max(initial=-1)) + 1)]


def _resolve(
    fragments: _Fragments, colour: Floats, alpha: Floats, count: int
) -> tuple[Floats, Floats, Floats]:
    """`count` colours times alpha, alphas and depths: opaque first, then glass from far to near."""
    paint, cover, near = np.zeros((count, 3)), np.zeros(count), np.full(count, np.inf)
    opaque = np.nonzero(alpha > OPAQUE)[0]
    opaque = opaque[np.argsort(-fragments.depth[opaque], kind="stable")]
    pixel = fragments.pixel[opaque]
    paint[pixel], cover[pixel], near[pixel] = colour[opaque], 1, fragments.depth[opaque]
    glass = np.nonzero((alpha <= OPAQUE) & (alpha > CUT))[0]
    glass = glass[fragments.depth[glass] < near[fragments.pixel[glass]] - 1e-6]
    for layer in _layers(fragments.pixel[glass], fragments.depth[glass]):
        chosen = glass[layer]
        pixel, over = fragments.pixel[chosen], np.maximum(alpha[chosen], FAINTEST)
        paint[pixel] = colour[chosen] * over[:, None] + paint[pixel] * (1 - over)[:, None]
        cover[pixel] = over + cover[pixel] * (1 - over)
        near[pixel] = np.minimum(near[pixel], fragments.depth[chosen])
    return paint, cover, near


def _samples(image: Floats) -> list[Floats]:
    """The samples of every pixel, as one small image per place within the pixel."""
    places = range(SAMPLES)
    return [image[row::SAMPLES, column::SAMPLES] for row in places for column in places]


def render(mesh: Mesh, azimuth: float, elevation: float, size: int = 96, zoom: float = 1.0) -> View:
    """One view of a `fitted` mesh.

    `azimuth` and `elevation` in degrees say where the camera stands: azimuth 0 before the front
    (+z), 90 at +x, elevation 90 above. `size` in pixels; `zoom` of `zoom_to_fit`.
    """
    width = size * SAMPLES
    axes = _axes(azimuth, elevation)
    flat, distance = _project(mesh, axes)
    placed = (1 + flat * zoom * [1, -1]) * width / 2
    corners = placed[mesh.faces]
    fragments = _scan(corners[..., 0], corners[..., 1], 1 / distance[mesh.faces], width)
    colour, alpha = _surface(mesh, fragments)
    normals = (mesh.normals[fragments.triangle] * fragments.weights[:, :, None]).sum(1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    colour = np.clip(colour * _light(normals, axes)[:, None], 0, 1)
    paint, cover, near = _resolve(fragments, colour, alpha, width * width)
    paint = np.mean(_samples(paint.reshape(width, width, 3)), axis=0)
    cover = np.mean(_samples(cover.reshape(width, width)), axis=0)
    rgb = paint / np.maximum(cover, 1e-6)[..., None]
    rgba = np.rint(np.dstack([rgb, cover]) * 255).clip(0, 255).astype(np.uint8)
    rgba[rgba[..., 3] == 0] = 0
    depth = np.min(_samples(near.reshape(width, width)), axis=0)
    return View(rgba, depth.astype(np.float32))
