"""Every colour mode becomes RGB in [0, 1]; whatever is no whole image is refused by name."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from pcs_core.errors import InputError
from pcs_folders.images import read_picture


def gradient(height: int = 6, width: int = 8) -> np.ndarray:
    """Return RGB levels that tell every corner from every other."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 30, x * 20, np.full_like(x, 77)], -1).astype(np.uint8)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return one PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width: int, height: int) -> bytes:
    """Return a tiny PNG whose header promises a huge picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )


def levels(path: Path) -> np.ndarray:
    """Return what was read as [h w 3] in 0..255."""
    return (read_picture(path).rgb.permute(1, 2, 0) * 255).numpy()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "tif", "webp"])
def test_lossless_formats_are_exact(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(gradient()).save(path, **options)
    picture = read_picture(path)
    assert picture.rgb.dtype == torch.float32
    assert picture.rgb.shape == (3, 6, 8)
    assert picture.alpha is None
    assert np.allclose(levels(path), gradient(), atol=1e-3)


def test_jpeg_is_close(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(gradient()).save(path, quality=98, subsampling=0)
    assert np.abs(levels(path) - gradient()).mean() < 4


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(gradient()).save(path, exif=exif, **options)
    turned = {
        1: gradient(),
        2: gradient()[:, ::-1],
        3: gradient()[::-1, ::-1],
        6: np.rot90(gradient(), -1),
        8: np.rot90(gradient(), 1),
    }[orientation]
    assert levels(path).shape == turned.shape
    assert np.abs(levels(path) - turned).mean() < 4


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    values = np.array([[0, 255, 256], [32768, 65534, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(path)
    rgb = read_picture(path).rgb
    assert torch.allclose(rgb[0], torch.from_numpy(values / 65535).float(), atol=1e-6)
    assert torch.equal(rgb[0], rgb[1])
    assert torch.equal(rgb[0], rgb[2])


def test_sixteen_bit_big_endian_tiff(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    values = np.array([[0, 1000], [40000, 65535]], dtype=np.uint16)
    image = Image.frombytes("I;16B", (2, 2), values.astype(">u2").tobytes())
    image.save(path)
    assert torch.allclose(read_picture(path).rgb[0], torch.from_numpy(values / 65535).float())


def test_sixteen_bit_colour_png(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 65535, 0, 32768, 0, 65535, 257)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(row))
        + png_chunk(b"IEND", b"")
    )
    assert np.allclose(levels(path)[0], [[255, 0, 128], [0, 255, 1]], atol=1)


def test_float_tiff_within_and_outside_the_range(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.25], [0.5, 1.0]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert torch.allclose(read_picture(tmp_path / "x.tif").rgb[2], torch.from_numpy(values))
    for name, scale in (("big.tif", 255.0), ("nan.tif", float("nan"))):
        Image.fromarray(values * np.float32(scale)).save(tmp_path / name)
        with pytest.raises(InputError, match=f"{name} has numbers outside"):
            read_picture(tmp_path / name)
    Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(InputError, match=r"deep\.tif has 32 bits"):
        read_picture(tmp_path / "deep.tif")


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_and_bilevel(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert(mode).save(path)
    expected = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert torch.equal(read_picture(path).rgb, expected.expand(3, 2, 2))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path, quality=95)
    assert np.abs(levels(path)[4, 4] - [255, 0, 0]).max() < 12


def test_transparency_is_composited_on_white_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    pixels = np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 255, 51]]], dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    picture = read_picture(path)
    assert picture.alpha is not None
    assert torch.allclose(picture.alpha, torch.tensor([[[1.0, 0.0, 0.2]]]))
    assert np.allclose(levels(path)[0], [[255, 0, 0], [255, 255, 255], [204, 204, 255]], atol=0.01)


def test_palette_with_transparency(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    image.putdata([0, 1])
    image.save(path, transparency=1)
    picture = read_picture(path)
    assert picture.alpha is not None
    assert picture.alpha.flatten().tolist() == [1.0, 0.0]
    assert np.allclose(levels(path)[0], [[10, 20, 30], [255, 255, 255]], atol=1e-3)


def test_palette_without_transparency(tmp_path: Path) -> None:
    path = tmp_path / "x.gif"
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    image.putdata([0, 1])
    image.save(path)
    assert read_picture(path).alpha is None
    assert np.allclose(levels(path)[0], [[10, 20, 30], [200, 100, 50]], atol=1e-3)


def test_opaque_alpha_is_no_mask_and_full_transparency_no_picture(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (1, 2, 3, 255)).save(tmp_path / "opaque.png")
    assert read_picture(tmp_path / "opaque.png").alpha is None
    Image.new("RGBA", (2, 2), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    with pytest.raises(InputError, match=r"clear\.png is fully transparent"):
        read_picture(tmp_path / "clear.png")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_a_file_of_several_pictures_the_first_is_read_and_that_is_said(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"x.{suffix}"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert np.allclose(levels(path)[0, 0], [255, 0, 0], atol=1)
    assert read_picture(path).notes == (
        "the first of its 3 pictures is read: an animation, or pages",
    )


def test_a_jpeg_called_png_is_still_an_image(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(gradient()).save(path, "JPEG")
    assert levels(path).shape == (6, 8, 3)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("suffix", "keep"),
    [(s, k) for s in ("png", "jpg", "bmp", "tiff", "webp", "gif") for k in (0.1, 0.5, 0.9)],
)
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    noise().save(path)
    content = path.read_bytes()
    read_picture(path)
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputError, match=rf"cut\.{suffix} ") as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_in_a_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flip.png"
    noise().save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"flip\.png is damaged"):
        read_picture(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zero.png", b"", "is empty (0 bytes)"),
        ("text.png", b"not an image at all\n", "is not an image"),
        ("text.jpg", "\N{BOMB}".encode() * 100, "is not an image"),
        ("eps.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        ("bomb.png", bomb(60_000, 60_000), "more than 128 megapixels, at most 64"),
        ("large.png", bomb(8_001, 8_000), "megapixels, at most 64 are read: scale it down"),
        ("warned.png", bomb(12_000, 12_000), "144 megapixels"),
        ("lie.png", bomb(100, 100), "is damaged"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)


def test_64_megapixels_are_allowed_by_the_header(tmp_path: Path) -> None:
    path = tmp_path / "edge.png"
    path.write_bytes(bomb(8_000, 8_000))
    with pytest.raises(InputError) as caught:
        read_picture(path)
    assert "megapixels" not in str(caught.value).replace(str(path), "")


def test_folders_and_dangling_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(InputError, match=r"dir\.png is a folder"):
        read_picture(tmp_path / "dir.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"link\.png is a link to nothing"):
        read_picture(tmp_path / "link.png")


def wide_gamut(space: bytes = b"RGB ", gamma: int = 563) -> bytes:
    """Return a matrix profile of Adobe RGB (1998)'s primaries, or a grey one; gamma in 1/256."""

    def fixed(values: Sequence[float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, gamma) + b"\0\0"
    tags = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + b"\0" * 79),
        (b"cprt", b"text\0\0\0\0none\0\0\0\0"),
        (b"wtpt", fixed((0.9642, 1, 0.8249))),
    ]
    if space == b"RGB ":
        rows = (
            (0.60974, 0.31111, 0.01947),
            (0.20528, 0.62567, 0.06087),
            (0.14919, 0.06322, 0.74457),
        )
        tags += [(c + b"XYZ", fixed(row)) for c, row in zip((b"r", b"g", b"b"), rows, strict=True)]
        tags += [(c + b"TRC", curve) for c in (b"r", b"g", b"b")]
    else:
        tags.append((b"kTRC", curve))
    at, table, data = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, value in tags:
        table += name + struct.pack(">II", at + len(data), len(value))
        data += value
    head = struct.pack(">I", 128 + len(table) + len(data)) + b"\0" * 4 + bytes([2, 64, 0, 0])
    head += b"mntr" + space + b"XYZ " + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
    head += b"\0" * 28 + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1, 0.8249))
    return head.ljust(128, b"\0") + table + data


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_an_embedded_profile_is_converted_to_srgb(tmp_path: Path, mode: str) -> None:
    """Adobe RGB (200, 60, 60): linear by gamma 2.2, to XYZ by its primaries, to sRGB: red above 229."""
    path, colour = tmp_path / "x.png", (200, 60, 60)
    image = Image.new("RGB", (4, 4), colour)
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    if mode == "RGBA":
        image.putpixel((0, 0), (200, 60, 60, 0))
    image.save(path, icc_profile=wide_gamut())
    picture = read_picture(path)
    got = levels(path)[2, 2]
    if mode == "L":  # on the axis of greys only the curve differs, by a few levels
        assert np.abs(got - np.asarray(image)[2, 2]).max() < 4
        return
    linear = (np.array(colour) / 255) ** (563 / 256)
    adobe = np.array(
        [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
    )
    srgb = np.array(
        [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
    )
    seen = np.clip(np.linalg.solve(srgb, adobe @ linear), 0, 1)
    want = 255 * np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    assert np.abs(got - want).max() < 3
    assert np.abs(want - colour).max() > 15
    assert (picture.alpha is not None) == (mode == "RGBA")
    assert picture.notes == ()


def test_a_picture_with_the_profile_of_srgb_keeps_its_levels(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(gradient()).save(path, icc_profile=srgb)
    assert np.allclose(levels(path), gradient(), atol=1e-3)


def test_sixteen_bit_grey_follows_its_profile(tmp_path: Path) -> None:
    values = np.array([[0, 20000], [40000, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png", icc_profile=wide_gamut(b"GRAY", 256))
    got = read_picture(tmp_path / "x.png").rgb[0].numpy()
    linear = values / 65535  # gamma 1
    want = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(got - want).max() < 0.01


@pytest.mark.parametrize(
    ("profile", "note"),
    [(b"no profile", "its colour profile cannot be used"), (wide_gamut(b"GRAY"), "is for GRAY")],
)
def test_a_profile_that_cannot_be_used_is_said(tmp_path: Path, profile: bytes, note: str) -> None:
    Image.fromarray(gradient()).save(tmp_path / "x.png", icc_profile=profile)
    assert np.allclose(levels(tmp_path / "x.png"), gradient(), atol=1e-3)
    (said,) = read_picture(tmp_path / "x.png").notes
    assert note in said


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_large_picture_is_held_at_twice_what_is_shown(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    ramp = np.broadcast_to(np.linspace(0, 255, 600)[None, :, None], (400, 600, 3)).astype(np.uint8)
    Image.fromarray(ramp).save(path, quality=95)
    picture = read_picture(path, (32, 32))
    assert picture.size == (400, 600)
    assert tuple(picture.rgb.shape) == (3, 64, 96)
    assert np.abs(picture.rgb[0, 30].numpy() * 255 - np.linspace(1, 254, 96)).max() < 5
    assert tuple(read_picture(path, (200, 200)).rgb.shape) == (3, 400, 600)
    assert (
        torch.equal(read_picture(path, (200, 200)).rgb, read_picture(path).rgb) or suffix == "jpg"
    )


def test_a_turned_photograph_is_reduced_upright(tmp_path: Path) -> None:
    path, exif = tmp_path / "x.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1200, 400), "red").save(path, exif=exif)
    picture = read_picture(path, (32, 32))
    assert picture.size == (1200, 400)
    assert tuple(picture.rgb.shape) == (3, 192, 64)


def test_a_picture_of_lab_is_read_as_it_looks(tmp_path: Path) -> None:
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    colour = (128, 64, 200)
    lab = ImageCms.profileToProfile(Image.new("RGB", (4, 4), colour), *spaces, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "x.tif")
    assert np.abs(levels(tmp_path / "x.tif") - colour).max() < 3
