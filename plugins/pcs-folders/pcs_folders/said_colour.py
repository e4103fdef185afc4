"""Colour that a file says without an embedded profile: a PNG's chunks, AVIF's colr box, Exif's Adobe RGB.

What they say is made into an ICC profile, so that one way leads to sRGB. Of a PNG's chunks the first of cICP,
iCCP, sRGB, gAMA with cHRM counts (PNG, third edition, 11.3.2). Numbers of cICP are those of ITU-T H.273.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from pcs_core.errors import InputError
from pcs_folders.high_range import NOTE, hlg_light, pq_light

D65, DCI = (0.3127, 0.3290), (0.314, 0.351)
BT709 = (*D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
ADOBE = (*D65, 0.640, 0.330, 0.210, 0.710, 0.150, 0.060)
PRIMARIES: dict[int, Sequence[float]] = {
    1: BT709,
    2: BT709,
    5: (*D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (*DCI, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""x and y of white, red, green and blue."""
HDR = {16: "PQ", 18: "HLG"}
"""Transfer functions of high dynamic range."""
MOST_CHUNK = 2**24
"""Bytes of a chunk in front of the pixels that is looked into."""
MOST_HEAD = 2**16
"""Bytes at the start of a file among which its boxes are looked for."""
LEVELS = 1024
"""Of the curve of a profile."""
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
Curve = Callable[[np.ndarray], np.ndarray]
"""Light in [0, 1] of levels in [0, 1]."""


@dataclass(frozen=True, slots=True)
class SaidColour:
    """``profile`` the ICC profile of it; ``note`` what a user should know; ``refused`` why it is not read."""

    profile: bytes = b""
    note: str = ""
    refused: str = ""


def exif_colour(file: BinaryIO, image: Image.Image) -> SaidColour | None:
    """Return the colour of a camera's JPEG in Adobe RGB without a profile, as Exif's index "R03" says."""
    if "icc_profile" in image.info:
        return None
    try:
        index = image.getexif().get_ifd(0xA005).get(1)
    except KeyError:  # of older Pillow, where a picture has none
        return None
    if index != "R03":
        return None
    return SaidColour(_rgb_profile(ADOBE, lambda v: v**2.19921875))


def avif_colour(file: BinaryIO, image: Image.Image) -> SaidColour | None:
    """Return what the box ``colr`` of an AVIF says ("nclx": numbers of H.273), or None: sRGB, or a profile.

    The decoder has made RGB of it by its matrix already; primaries and transfer are left (MIAF, 7.3.6.4).
    """
    if "icc_profile" in image.info:
        return None
    file.seek(0)
    head = file.read(MOST_HEAD)
    file.seek(0)
    place = head.find(b"colrnclx")
    if place < 0 or len(head) < place + 14:
        return None
    primaries, transfer = struct.unpack(">HH", head[place + 8 : place + 12])
    if max(primaries, transfer) > 255:
        primaries = transfer = 0  # of none that there are
    return coded_colour(bytes((primaries, transfer, 0, 1)), grey=False, what="its colr box")


def png_colour(file: BinaryIO, image: Image.Image) -> SaidColour | None:
    """Return what the chunks of a PNG file say of its colour, or None: sRGB, or a profile that Pillow reads."""
    chunks = _chunks(file)
    depth, kind = chunks.get(b"IHDR", bytes(10))[8:10]
    if depth == 16 and kind == 2 and b"tRNS" in chunks:
        return SaidColour(
            refused="makes one colour of 16 bits transparent, which is not read: save it with an alpha "
            "channel, or with 8 bits"
        )
    grey = kind in (0, 4)
    if b"cICP" in chunks and len(chunks[b"cICP"]) == 4:
        return coded_colour(chunks[b"cICP"], grey)
    if b"iCCP" in chunks or b"sRGB" in chunks:
        return None
    return _measured(chunks.get(b"gAMA"), chunks.get(b"cHRM"), grey)


def _chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """Return kind -> content of the chunks in front of the pixels."""
    chunks: dict[bytes, bytes] = {}
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND") or length > MOST_CHUNK:
            break
        chunks[kind] = file.read(length)
        file.seek(4, 1)
    file.seek(0)
    return chunks


def coded_colour(said: bytes, grey: bool, what: str = "its cICP chunk") -> SaidColour | None:
    """Return the colour of primaries, transfer, matrix and range, a byte each by H.273; None: sRGB."""
    primaries, transfer, matrix, full = said
    curve = _curve(transfer)
    if curve is None or primaries not in PRIMARIES or matrix != 0:
        return SaidColour(
            refused=f"says a colour space that is not read ({what} says {primaries}, {transfer}, {matrix}): "
            "save it as sRGB"
        )
    if transfer in (2, 13) and PRIMARIES[primaries] is BT709 and full:
        return None
    if not full:  # 16 to 235 of 255
        whole = curve
        curve = lambda v: whole(np.clip((v * 255 - 16) / 219, 0, 1))  # noqa: E731
    note = NOTE.format(f"{what} says {HDR[transfer]}") if transfer in HDR else ""
    return SaidColour(
        _grey_profile(curve) if grey else _rgb_profile(PRIMARIES[primaries], curve), note
    )


def high_range_profile(numbers: bytes) -> tuple[bytes, str]:
    """Return an ICC profile of the ``numbers`` that a profile's tag ``cicp`` says, PQ or HLG, and a note."""
    said = coded_colour(numbers, grey=False, what="its profile")
    return (said.profile, said.note) if said else (b"", "")


def _curve(transfer: int) -> Curve | None:
    """Return the light of levels by a number of H.273, table 3."""
    if transfer in (1, 6, 14, 15):
        return lambda v: np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** (1 / 0.45))
    if transfer in HDR:
        return pq_light if transfer == 16 else hlg_light
    powers = {4: 2.2, 5: 2.8, 8: 1.0}
    if transfer in powers:
        return lambda v: v ** powers[transfer]
    return _srgb_curve if transfer in (2, 13) else None


def _srgb_curve(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _measured(gamma: bytes | None, places: bytes | None, grey: bool) -> SaidColour | None:
    """Return what gAMA (1/gamma) and cHRM (x and y of white, red, green, blue), in 1/100000, say."""
    curve, note = _srgb_curve, ""
    if gamma is not None and len(gamma) == 4:
        (number,) = struct.unpack(">I", gamma)
        if not 10_000 <= number <= 1_000_000:
            note = f"its gamma (gAMA {number}) cannot be meant: read as sRGB"
        elif not 44_000 <= number <= 47_000:  # 45455 stands for sRGB
            curve = lambda v: v ** (100_000 / number)  # noqa: E731
            note = f"its gamma is {100_000 / number:.3g} (gAMA): converted to sRGB"
    xy: Sequence[float] = BT709
    if places is not None and len(places) == 32 and not grey:
        given = [n / 100_000 for n in struct.unpack(">8I", places)]
        if not _spans(given):
            note = "its primaries (cHRM) cannot be meant: read as sRGB"
        elif np.abs(np.subtract(given, BT709)).max() > 0.002:
            xy = given
    if curve is _srgb_curve and xy is BT709:
        return SaidColour(note=note) if note else None
    return SaidColour(_grey_profile(curve) if grey else _rgb_profile(xy, curve), note)


def _spans(xy: Sequence[float]) -> bool:
    """Return whether white lies inside the triangle of the primaries."""
    if not all(0 < y <= 1 for y in xy[1::2]):
        return False
    matrix = _to_xyz(xy)
    return bool(np.isfinite(matrix).all() and (matrix[1] > 0).all())


def _to_xyz(xy: Sequence[float]) -> np.ndarray:
    """Return the matrix [3 3] from linear RGB to XYZ under the space's own white."""
    columns = np.array(
        [[x / y, 1.0, (1 - x - y) / y] for x, y in zip(xy[::2], xy[1::2], strict=True)]
    )
    white, primaries = columns[0], columns[1:].T
    if abs(np.linalg.det(primaries)) < 1e-6:
        return np.full((3, 3), np.nan)
    return np.asarray(primaries * np.linalg.solve(primaries, white))


def _rgb_profile(xy: Sequence[float], curve: Curve) -> bytes:
    """Return an ICC profile of primaries and a curve, its white brought to D50 (Bradford)."""
    matrix = _to_xyz(xy)
    before, after = _BRADFORD @ matrix.sum(1), _BRADFORD @ np.array(_D50)
    matrix = np.linalg.inv(_BRADFORD) @ np.diag(after / before) @ _BRADFORD @ matrix
    tags = [(c + b"XYZ", _xyz(row)) for c, row in zip((b"r", b"g", b"b"), matrix.T, strict=True)]
    table = _table(curve)
    return _profile(b"RGB ", [*tags, *((c + b"TRC", table) for c in (b"r", b"g", b"b"))])


def _grey_profile(curve: Curve) -> bytes:
    return _profile(b"GRAY", [(b"kTRC", _table(curve))])


def _xyz(row: Sequence[float] | np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(v) for v in row)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(float(value) * 65536))


def _table(curve: Curve) -> bytes:
    light = np.clip(curve(np.linspace(0, 1, LEVELS)), 0, 1)
    return (
        b"curv\0\0\0\0"
        + struct.pack(">I", LEVELS)
        + (light * 65535).round().astype(">u2").tobytes()
    )


def _profile(space: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    """Return an ICC profile, version 2.4, of a display (ICC.1:2001-04, 6.1 to 6.3)."""
    tags = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", 5) + b"said\0" + bytes(79)),
        (b"cprt", b"text\0\0\0\0none\0\0\0\0"),
        (b"wtpt", _xyz(_D50)),
        *tags,
    ]
    start, table, data = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, value in tags:
        padded = value + bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(data), len(value))
        data += padded
    head = struct.pack(">I4x4B", start + len(data), 2, 64, 0, 0) + b"mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += b"".join(_fixed(v) for v in _D50)
    return head.ljust(128, b"\0") + table + data


def take(said: SaidColour | None, path: object) -> tuple[bytes, str]:
    """Return the profile to be used in place of the picture's own, or nothing, and a note.

    Raises
    ------
    InputError
        What is said is not read: names the file and the mend.
    """
    if said is None:
        return b"", ""
    if said.refused:
        raise InputError(f"{path} {said.refused}")
    return said.profile, said.note
