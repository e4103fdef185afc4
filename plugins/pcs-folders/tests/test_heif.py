"""Photographs of telephones: HEIF where pillow-heif is installed, else a refusal that says how to get it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcs_core import load_subject
from pcs_core.errors import InputError
from pcs_folders import heif, images, listing
from pcs_folders.images import read_picture
from pcs_folders.said_colour import BT709, D65, _rgb_profile

needs_heif = pytest.mark.skipif(not heif.HEIF, reason="pillow-heif is not installed")
LOSSLESS = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
P3 = (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)


def halves(width: int = 64, height: int = 48) -> Image.Image:
    """A picture whose left third is red and whose rest is grey."""
    pixels = np.full((height, width, 3), 120, dtype=np.uint8)
    pixels[:, : width // 3] = (220, 30, 30)
    return Image.fromarray(pixels)


def srgb_curve(levels: np.ndarray) -> np.ndarray:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


@needs_heif
@pytest.mark.parametrize("suffix", ["heic", "HEIF", "hif"])
def test_a_photograph_of_a_telephone_is_read(tmp_path: Path, suffix: str) -> None:
    halves().save(tmp_path / f"IMG_0001.{suffix}", format="HEIF", **LOSSLESS)
    subject = load_subject(tmp_path, noun="dog", token="<rex>", size=None)
    assert subject.files == (f"IMG_0001.{suffix}",)
    (rgb,) = subject.images
    assert rgb.shape == (3, 48, 64)
    expected = np.asarray(halves()).transpose(2, 0, 1) / 255
    assert np.abs(rgb.numpy() - expected).max() < 2.5 / 255


@needs_heif
@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_stands_upright_once(tmp_path: Path, orientation: int) -> None:
    """Turned by the file's own properties: Exif's orientation, which stands there too, turns it no further."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves().save(tmp_path / "x.heic", exif=exif.tobytes(), **LOSSLESS)
    halves().save(tmp_path / "x.png", exif=exif)
    turned, expected = (read_picture(tmp_path / f"x.{suffix}") for suffix in ("heic", "png"))
    assert turned.size == expected.size == tuple(expected.rgb.shape[1:])
    assert np.abs(turned.rgb.numpy() - expected.rgb.numpy()).max() < 2.5 / 255


@needs_heif
def test_its_profile_is_converted(tmp_path: Path) -> None:
    """Display P3, which iPhones write: as the same picture in a PNG with that profile."""
    profile = _rgb_profile(P3, srgb_curve)
    for name, options in (("x.heic", LOSSLESS), ("x.png", {})):
        halves().save(tmp_path / name, icc_profile=profile, **options)
    one, other = (read_picture(tmp_path / name).rgb for name in ("x.heic", "x.png"))
    assert np.abs(one.numpy() - other.numpy()).max() < 3 / 255
    assert float(one[0, 8, 8]) > 225 / 255  # a red beyond sRGB's at this level


@needs_heif
def test_what_its_box_says_of_colour_is_converted(tmp_path: Path) -> None:
    import pillow_heif

    file = pillow_heif.from_pillow(halves())
    options = {**LOSSLESS, "color_primaries": 12, "transfer_characteristics": 13}
    file.save(tmp_path / "x.heic", **options)
    halves().save(tmp_path / "x.png", icc_profile=_rgb_profile(P3, srgb_curve))
    one, other = (read_picture(tmp_path / name).rgb for name in ("x.heic", "x.png"))
    assert np.abs(one.numpy() - other.numpy()).max() < 3 / 255
    assert BT709 != P3


@needs_heif
def test_transparency_and_further_pictures(tmp_path: Path) -> None:
    clear = halves().convert("RGBA")
    clear.putalpha(Image.fromarray(np.repeat([[0, 255]], 48, 0).repeat(32, 1).astype(np.uint8)))
    clear.save(tmp_path / "x.heic", **LOSSLESS)
    picture = read_picture(tmp_path / "x.heic")
    assert picture.alpha is not None
    assert float(picture.rgb[:, 8, 8].min()) > 0.99  # on white
    halves().save(tmp_path / "y.heic", save_all=True, append_images=[halves()], **LOSSLESS)
    assert "the main one of its 2 pictures is read" in read_picture(tmp_path / "y.heic").notes


@needs_heif
def test_a_damaged_one_is_named(tmp_path: Path) -> None:
    halves().save(tmp_path / "x.heic", **LOSSLESS)
    whole = (tmp_path / "x.heic").read_bytes()
    for length in (40, 200, len(whole) - 20):
        (tmp_path / "x.heic").write_bytes(whole[:length])
        with pytest.raises(InputError, match=re.escape(str(tmp_path / "x.heic"))):
            read_picture(tmp_path / "x.heic")


def test_without_the_package_the_refusal_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert not heif.register()
    monkeypatch.setattr(heif, "HEIF", False)
    known = tuple(s for s in images.SUFFIXES if s not in heif.SUFFIXES)
    for module in (images, listing):
        monkeypatch.setattr(module, "SUFFIXES", known)
    monkeypatch.setattr(images, "FORMATS", tuple(f for f in images.FORMATS if f != heif.FORMAT))
    head = b"\0\0\0\x18ftypheic\0\0\0\0"
    (tmp_path / "a.heic").write_bytes(head)
    with pytest.raises(InputError, match=r"a.heic: .heic pictures .*`pip install pillow-heif`"):
        load_subject(tmp_path, noun="dog", token="<rex>")
    (tmp_path / "a.heic").rename(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a.jpg holds HEIC, .*`pip install pillow-heif`"):
        load_subject(tmp_path, noun="dog", token="<rex>")
