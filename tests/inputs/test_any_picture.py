"""A picture of any mode, depth, profile, orientation and format is read as it looks, or refused by name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from pcs_core.errors import InputError
from pcs_folders.images import FORMATS, read_picture

MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F", "LAB"),
    "GIF": ("L", "P"),
    "AVIF": ("RGB", "RGBA"),
    "HEIF": ("RGB", "RGBA"),
}
SUFFIX = {form: form.lower() for form in MODES} | {"JPEG": "jpg", "TIFF": "tif"}
LOSSY = 12
"""Levels of 255 by which a lossy format may change the mean of a picture of smooth colours."""


def smooth(width: int, height: int, colours: list[int]) -> Image.Image:
    """Return a picture that fades along both sides: lossy formats change it little, turning it does."""
    across = np.linspace(0, 1, width)[None, :, None]
    down = np.linspace(1, 0.5, height)[:, None, None]
    first, second = np.array(colours[:3]), np.array(colours[3:])
    levels = (first * (1 - across) + second * across) * down
    return Image.fromarray(levels.astype(np.uint8), "RGB")


def of_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    return image.convert(mode)


def as_seen(image: Image.Image, mode: str) -> np.ndarray:
    """Return what such a picture looks like, [h w 3] in [0, 1]: of the picture that went in."""
    grey = mode in ("1", "L", "LA", "I;16", "F")
    seen = image.convert("1" if mode == "1" else "L" if grey else "RGB").convert("RGB")
    return np.asarray(seen, np.float64) / 255


@given(data=st.data())
def test_a_picture_is_read_as_it_looks(data: st.DataObject, tmp_path: Path) -> None:
    form = data.draw(st.sampled_from(FORMATS))
    mode = data.draw(st.sampled_from(MODES[form]))
    least = (
        8 if form in ("JPEG", "WEBP", "AVIF", "HEIF") else 1
    )  # lossy formats mix colours of few pixels
    width, height = data.draw(st.tuples(st.integers(least, 70), st.integers(least, 70)))
    colours = data.draw(st.lists(st.integers(0, 255), min_size=6, max_size=6))
    orientation = data.draw(st.sampled_from((None, *range(1, 9))))
    size = data.draw(st.none() | st.tuples(st.integers(4, 64), st.integers(4, 64)))
    image = smooth(width, height, colours)
    exif = Image.Exif()
    if orientation is not None and form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"):
        exif[0x0112] = orientation
    path = tmp_path / f"a.{SUFFIX[form]}"
    # as bytes: writing AVIF takes the orientation out of an object
    options: dict[str, Any] = {"exif": exif.tobytes()} if len(exif) else {}
    if form in ("JPEG", "WEBP", "AVIF", "HEIF"):
        fine: dict[str, dict[str, Any]] = {
            "JPEG": {"quality": 95, "subsampling": 0},
            "WEBP": {"quality": 95},
            "AVIF": {"quality": 100, "subsampling": "4:4:4"},
            "HEIF": {"quality": -1, "chroma": 444},
        }
        options |= fine[form]
    of_mode(image, mode).save(path, form, **options)

    picture = read_picture(path, size)

    seen = as_seen(image, mode)
    turned = Image.fromarray((seen * 255).astype(np.uint8), "RGB")
    turned.getexif().update(exif)
    upright = np.asarray(ImageOps.exif_transpose(turned), np.float64) / 255
    assert picture.size == upright.shape[:2]
    rgb = picture.rgb
    assert rgb.shape[0] == 3
    assert rgb.dtype == torch.float32
    assert float(rgb.min()) >= 0
    assert float(rgb.max()) <= 1
    if size is None:
        assert tuple(rgb.shape[1:]) == upright.shape[:2]
    else:
        assert all(have <= whole for have, whole in zip(rgb.shape[1:], upright.shape, strict=False))
    # the means of the upper and the left half: a turned or mirrored picture has others
    tall, wide = rgb.shape[1] // 2, rgb.shape[2] // 2
    if tuple(rgb.shape[1:]) == upright.shape[:2] and tall and wide:
        for half, other in (
            (rgb[:, :tall], upright[:tall]),
            (rgb[:, :, :wide], upright[:, :wide]),
        ):
            far = np.abs(half.mean((1, 2)).numpy() - other.mean((0, 1))).max() * 255
            assert far < LOSSY, far


@given(
    level=st.integers(1, 254),
    gamma=st.sampled_from((1.0, 1.8, 2.2)),
    inside=st.sampled_from(("PNG", "JPEG", "TIFF", "WEBP")),
)
def test_an_embedded_profile_counts(level: int, gamma: float, inside: str, tmp_path: Path) -> None:
    """A grey of linear light, or of another curve, is read as the sRGB grey that looks the same."""
    profile = curved_profile(gamma)
    path = tmp_path / f"a.{SUFFIX[inside]}"
    image = Image.new("RGB", (16, 16), (level,) * 3)
    image.save(
        path, inside, icc_profile=profile, **({"lossless": True} if inside == "WEBP" else {})
    )
    light = (level / 255) ** gamma
    looks = 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
    read = read_picture(path).rgb
    # near black the profile's transform rounds to the nearest of 8 bits
    assert abs(float(read.mean()) - looks) < 3.5 / 255


def curved_profile(gamma: float) -> bytes:
    """Return an ICC profile with sRGB's primaries and a curve of its own."""
    base = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    count = int.from_bytes(base[128:132], "big")
    tags = [base[132 + 12 * i : 144 + 12 * i] for i in range(count)]
    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big")
    curve += bytes(2)
    body = base[128 + 4 + 12 * count :]
    start = len(base)
    table = b"".join(
        tag[:4] + start.to_bytes(4, "big") + (14).to_bytes(4, "big")
        if tag[:4] in (b"rTRC", b"gTRC", b"bTRC")
        else tag
        for tag in tags
    )
    whole = base[:128] + base[128:132] + table + body + curve
    return len(whole).to_bytes(4, "big") + whole[4:]


@given(data=st.data())
def test_damaged_bytes_are_refused_by_name(data: st.DataObject, tmp_path: Path) -> None:
    """Cut off, overwritten or foreign bytes: a picture, or one message with the file's name."""
    form = data.draw(st.sampled_from(FORMATS))
    mode = data.draw(st.sampled_from(MODES[form]))
    buffer = io.BytesIO()
    of_mode(smooth(24, 17, [10, 200, 90, 240, 30, 60]), mode).save(buffer, form)
    content = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=12)
    ):
        if at < len(content):
            content[at] = value
    path = tmp_path / f"a.{SUFFIX[data.draw(st.sampled_from(FORMATS))]}"
    path.write_bytes(content)
    try:
        picture = read_picture(path)
    except InputError as error:
        assert str(path) in str(error)
        return
    assert bool(picture.rgb.isfinite().all())
    assert float(picture.rgb.min()) >= 0
    assert float(picture.rgb.max()) <= 1
