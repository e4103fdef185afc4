"""Colour that a file says without a profile is converted to sRGB, or the file is refused by name."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from pcs_core.errors import InputError
from pcs_folders.high_range import KNEE, hlg_light, pq_light
from pcs_folders.images import AVIF, read_picture

COLOUR = (200, 60, 60)
P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
P3_TO_SRGB = np.array([[1.2249, -0.2247, 0], [-0.0421, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
"""Between linear colours of one white: CSS Color 4, sample code."""


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(path: Path, *chunks: tuple[bytes, bytes], depth: int = 8, grey: bool = False) -> Path:
    """Write a picture of one colour with chunks in front of its pixels."""
    head = struct.pack(">IIBBBBB", 4, 4, depth, 0 if grey else 2, 0, 0, 0)
    sample = struct.pack(">H", 32768) if grey else bytes(COLOUR)
    if depth == 16 and not grey:
        sample = struct.pack(">3H", *(257 * n for n in COLOUR))
    body = zlib.compress(4 * (b"\0" + 4 * sample))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", body), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def cicp(*numbers: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes(numbers)


def gamma(number: int) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", number)


def primaries(places: tuple[float, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(100_000 * n) for n in places))


def light(levels: np.ndarray) -> np.ndarray:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def shown(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


LEVELS = np.array(COLOUR) / 255
WIDE = shown(P3_TO_SRGB @ light(LEVELS))


@pytest.mark.parametrize(
    ("chunks", "want"),
    [
        ([cicp(12, 13, 0, 1)], WIDE),
        ([primaries(P3)], WIDE),
        ([gamma(45_455), primaries(P3)], WIDE),
        ([gamma(100_000)], shown(LEVELS)),
        ([gamma(55_556)], shown(LEVELS**1.8)),
        ([cicp(1, 8, 0, 1), gamma(45_455)], shown(LEVELS)),
        ([cicp(1, 13, 0, 0)], (np.array(COLOUR) - 16) / 219),
        ([cicp(1, 13, 0, 1)], LEVELS),
        ([gamma(45_455)], LEVELS),
        ([(b"sRGB", b"\0"), gamma(100_000)], LEVELS),
    ],
)
def test_what_a_png_says_is_converted(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]], want: np.ndarray
) -> None:
    rgb = read_picture(png(tmp_path / "x.png", *chunks)).rgb[:, 2, 2].numpy()
    assert np.abs(rgb - want).max() < 0.012
    if want is LEVELS:
        assert np.abs(rgb - want).max() < 1e-6


def test_sixteen_bits_of_grey_follow_their_gamma(tmp_path: Path) -> None:
    picture = read_picture(png(tmp_path / "x.png", gamma(100_000), depth=16, grey=True))
    assert np.abs(picture.rgb.numpy() - shown(np.array(0.5))).max() < 0.005
    assert "its gamma is 1" in picture.notes[0]


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([cicp(1, 13, 1, 1)], "a colour space that is not read .its cICP chunk says 1, 13, 1."),
        ([cicp(200, 13, 0, 1)], "a colour space that is not read .its cICP chunk says 200, 13, 0."),
    ],
)
def test_what_is_of_no_space_is_refused_by_name(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]], message: str
) -> None:
    with pytest.raises(InputError, match=rf"x\.png .*{message}.* as sRGB"):
        read_picture(png(tmp_path / "x.png", *chunks))


PQ_PAPER, HLG_PAPER = 0.5806888810416109, 0.75
"""Levels of white paper, 203 cd/m2 (ITU-R BT.2408, table 1: 58 % and 75 %)."""


@pytest.mark.parametrize(("light_of", "paper"), [(pq_light, PQ_PAPER), (hlg_light, HLG_PAPER)])
def test_light_is_that_of_the_standards_up_to_the_knee(light_of: Any, paper: float) -> None:
    levels = np.linspace(0, 1, 2001)
    light = light_of(levels)
    assert light[0] == pytest.approx(0, abs=1e-6)
    assert (np.diff(light) >= 0).all()
    assert np.diff(light).max() < 0.02  # no jump at the knee
    assert light[-1] == pytest.approx(1.0, abs=1e-3)
    assert light_of(np.array([paper]))[0] == pytest.approx(KNEE + (1 - KNEE) * np.tanh(1), abs=2e-3)
    if light_of is pq_light:  # 100 cd/m2 is at 0.5081 (ST 2084)
        assert light_of(np.array([0.508078]))[0] == pytest.approx(100 / 203, abs=1e-3)
    else:  # half of the signal is a twelfth of the scene's light
        assert light_of(np.array([0.5]))[0] == pytest.approx(1000 * (1 / 12) ** 1.2 / 203, abs=1e-6)


@pytest.mark.parametrize(("number", "name"), [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize("way", ["png", "profile", "grey"])
def test_high_dynamic_range_is_compressed_and_said(
    tmp_path: Path, way: str, number: int, name: str
) -> None:
    curve = {"PQ": pq_light, "HLG": hlg_light}[name]
    deep: Any = {"depth": 16, "grey": True} if way == "grey" else {}
    if way == "profile":
        plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        place = tmp_path / "x.png"
        profile = with_cicp(plain, 1, number, 0, 1)
        Image.new("RGB", (4, 4), COLOUR).save(place, icc_profile=profile)
    else:
        place = png(tmp_path / "x.png", cicp(1, number, 0, 1), **deep)
    picture = read_picture(place)
    levels = np.full(3, 0.5) if way == "grey" else LEVELS
    actual = picture.rgb[:, 2, 2].numpy()
    assert np.abs(actual - shown(curve(levels))).max() < 0.02
    assert any("it is HDR (" in note and name in note for note in picture.notes)


def test_a_transparent_colour_of_sixteen_bits_is_refused(tmp_path: Path) -> None:
    clear = (b"tRNS", struct.pack(">3H", 1, 2, 3))
    with pytest.raises(InputError, match="one colour of 16 bits transparent"):
        read_picture(png(tmp_path / "x.png", clear, depth=16))


@pytest.mark.parametrize(
    ("said", "note"), [(gamma(0), "its gamma .gAMA 0."), (primaries((0.0,) * 8), "its primaries")]
)
def test_what_cannot_be_meant_is_said(tmp_path: Path, said: tuple[bytes, bytes], note: str) -> None:
    picture = read_picture(png(tmp_path / "x.png", said))
    assert np.abs(picture.rgb[:, 0, 0].numpy() - LEVELS).max() < 1e-6
    assert re.search(note, picture.notes[0])


def test_a_cameras_adobe_rgb_without_a_profile(tmp_path: Path) -> None:
    """Adobe RGB (200, 60, 60) is a red above sRGB's 229."""
    exif = Image.Exif()
    exif[0x8769] = {0xA005: {1: "R03"}}
    Image.new("RGB", (16, 16), COLOUR).save(tmp_path / "x.jpg", quality=100, exif=exif)
    assert read_picture(tmp_path / "x.jpg").rgb[0, 8, 8] > 229 / 255


def avif(path: Path, primaries: int, transfer: int, **options: object) -> Path:
    """Write a picture of one colour whose box ``colr`` says these numbers."""
    picture = Image.new("RGB", (16, 16), COLOUR)
    picture.save(path, quality=100, subsampling="4:4:4", **options)
    content = path.read_bytes()
    place = content.find(b"colrnclx") + 8
    if place > 8:
        said = struct.pack(">HH", primaries, transfer)
        path.write_bytes(content[:place] + said + content[place + 4 :])
    return path


needs_avif = pytest.mark.skipif(not AVIF, reason="this Pillow reads no AVIF")


@needs_avif
@pytest.mark.parametrize(
    ("numbers", "expected"), [((1, 13), LEVELS), ((2, 2), LEVELS), ((12, 13), WIDE)]
)
def test_an_avif_is_read_by_what_its_box_says(
    tmp_path: Path, numbers: tuple[int, int], expected: np.ndarray
) -> None:
    rgb = read_picture(avif(tmp_path / "x.avif", *numbers)).rgb[:, 8, 8].numpy()
    assert np.abs(rgb - expected).max() < 3 / 255


@needs_avif
@pytest.mark.parametrize(("numbers", "name"), [((1, 16), "PQ"), ((1, 18), "HLG")])
def test_an_avif_of_high_dynamic_range_is_compressed(
    tmp_path: Path, numbers: tuple[int, int], name: str
) -> None:
    picture = read_picture(avif(tmp_path / "x.avif", *numbers))
    expected = shown({"PQ": pq_light, "HLG": hlg_light}[name](LEVELS))
    assert np.abs(picture.rgb[:, 8, 8].numpy() - expected).max() < 6 / 255
    assert f"its colr box says {name}" in picture.notes[0]


@needs_avif
def test_an_avif_that_lies_on_its_side_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10), COLOUR).save(tmp_path / "x.avif", exif=exif)
    assert read_picture(tmp_path / "x.avif").rgb.shape == (3, 20, 10)


def with_cicp(profile: bytes, *numbers: int) -> bytes:
    """Return an ICC profile with a tag ``cicp`` more; its other tags move by twelve bytes."""
    (count,) = struct.unpack(">I", profile[128:132])
    body = profile[132 + 12 * count :]
    table = b""
    for at in range(132, 132 + 12 * count, 12):
        name, place, size = struct.unpack(">4sII", profile[at : at + 12])
        table += struct.pack(">4sII", name, place + 12, size)
    end = 132 + 12 * (count + 1) + len(body)
    table += struct.pack(">4sII", b"cicp", end, 12)
    whole = profile[4:128] + struct.pack(">I", count + 1) + table + body
    whole += b"cicp" + bytes(4) + bytes(numbers)
    return struct.pack(">I", len(whole) + 4) + whole


def test_a_profile_with_numbers_of_sdr_is_read_as_it_is(tmp_path: Path) -> None:
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.new("RGB", (4, 4), COLOUR)
    picture.save(tmp_path / "y.jpg", icc_profile=with_cicp(plain, 1, 13, 0, 1))
    assert not read_picture(tmp_path / "y.jpg").notes


def test_a_profile_of_numbers_that_mean_nothing_is_left_out_and_said(tmp_path: Path) -> None:
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.new("RGB", (4, 4), COLOUR)
    picture.save(tmp_path / "x.png", icc_profile=with_cicp(plain, 200, 16, 0, 1))
    shown_picture = read_picture(tmp_path / "x.png")
    assert "(200, 16, 0, 1)" in shown_picture.notes[0]
    assert np.abs(shown_picture.rgb[:, 0, 0].numpy() - LEVELS).max() < 1e-6
