"""Small files that would take all memory or all time: pictures, clips, numbers, counts."""

from __future__ import annotations

import io
import json
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pcs_core.errors import InputError
from pcs_video.clip_files import read_clip

FIT = ("fit", "textual-inversion", "subject", "--noun", "dog", "--token", "<x>", "-o", "out")
FIT += ("--backbone", "tiny", "--no-preview", "--set", "token.steps=1")
BASE = ("sample", "--base", "tiny", "a dog", "-o", "out")


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(width: int, height: int, data: bytes = b"", *, more: bytes = b"", depth: int = 8) -> bytes:
    """Return a PNG of any header, its pixels ``data`` as they are."""

    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def small(*more: bytes) -> bytes:
    """Return a PNG of 8 x 8 pixels with further chunks."""
    return png(8, 8, zlib.compress(b"\0" * 200), more=b"".join(more))


def bomb(kind: bytes, start: bytes, byte: bytes = b"\0", size: int = 300_000_000) -> bytes:
    """Return a small PNG with a chunk that unpacks to ``size`` bytes."""
    return small(chunk(kind, start + zlib.compress(byte * size)))


def written(mode: str, size: tuple[int, int], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind: str, count: int, size: tuple[int, int]) -> bytes:
    frames = [Image.new("P" if kind == "GIF" else "RGB", size, i % 256) for i in range(count)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def tiff(**tags: int) -> bytes:
    """Return a TIFF of a header alone: width, height, strips as told."""
    numbers = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    numbers |= {int(k[1:]): v for k, v in tags.items()}
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(numbers.items())
    )
    return (
        b"II*\0" + struct.pack("<IH", 8, len(numbers)) + entries + struct.pack("<I", 0) + b"\0" * 64
    )


def looping_tiff() -> bytes:
    one = tiff()
    return one[:8] + one[8:-68] + struct.pack("<I", 8) + b"\0" * 64


PICTURES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "png-header-of-gigapixels": (".png", lambda: png(2**31 - 1, 2**31 - 1)),
    "png-50000": (".png", lambda: png(50_000, 50_000, zlib.compress(b"\0" * 10_000_000))),
    "png-one-row": (".png", lambda: png(2**30, 1, zlib.compress(b"\0" * 1000))),
    "png-no-pixels": (".png", lambda: png(0, 5)),
    "png-text-bomb": (".png", lambda: bomb(b"zTXt", b"k\0\0")),
    "png-profile-bomb": (".png", lambda: bomb(b"iCCP", b"k\0\0")),
    "png-itxt-bomb": (".png", lambda: bomb(b"iTXt", b"k\0\1\0\0\0")),
    "png-profile-nonsense": (".png", lambda: bomb(b"iCCP", b"k\0\0", b"\xff", 3000)),
    "png-many-chunks": (".png", lambda: small(chunk(b"teXt", b"a\0b") * 300_000)),
    "png-data-bomb": (".png", lambda: png(8, 8, zlib.compress(b"\0" * 500_000_000))),
    "png-exif-bomb": (
        ".png",
        lambda: small(
            chunk(
                b"eXIf",
                b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 0x112, 3, 2**31, 8),
            )
        ),
    ),
    "tiff-gigapixels": (".tif", lambda: tiff(t256=2**31 - 1, t257=2**31 - 1)),
    "tiff-strips": (".tif", lambda: tiff(t278=1, t257=2**24)),
    "tiff-loop": (".tif", looping_tiff),
    "tiff-count": (
        ".tif",
        lambda: tiff().replace(struct.pack("<HHI", 273, 4, 1), struct.pack("<HHI", 273, 4, 2**30)),
    ),
    "tiff-deflate-bomb": (
        ".tif",
        lambda: written("1", (60_000, 60_000), "TIFF", compression="tiff_adobe_deflate"),
    ),
    "tiff-pages": (".tif", lambda: animated("TIFF", 3000, (4, 4))),
    "gif-frames": (".gif", lambda: animated("GIF", 3000, (8, 8))),
    "gif-screen": (
        ".gif",
        lambda: b"GIF89a" + struct.pack("<HH", 65535, 65535) + written("P", (2, 2), "GIF")[10:],
    ),
    "webp-canvas": (
        ".webp",
        lambda: (
            b"RIFF"
            + struct.pack("<I", 30)
            + b"WEBPVP8X"
            + struct.pack("<I", 10)
            + b"\2\0\0\0"
            + b"\xff\xff\xff" * 2
            + b"ANIM"
        ),
    ),
    "webp-lossless": (
        ".webp",
        lambda: b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f" + b"\xff\xff\xff\x0f" + b"\0" * 9,
    ),
    "bmp-gigapixels": (
        ".bmp",
        lambda: (
            b"BM"
            + struct.pack(
                "<IIIIiiHHIIiiII", 70, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0
            )
        ),
    ),
    "bmp-negative": (
        ".bmp",
        lambda: (
            b"BM" + struct.pack("<IIIIiiHHIIiiII", 70, 0, 54, 40, -5, 5, 1, 24, 0, 0, 0, 0, 0, 0)
        ),
    ),
    "jpeg-header": (
        ".jpg",
        lambda: written("RGB", (8, 8), "JPEG").replace(
            b"\x00\x08\x00\x08\x03", b"\xff\xff\xff\xff\x03"
        ),
    ),
    "jpeg-cut": (".jpg", lambda: written("RGB", (4000, 4000), "JPEG")[:700]),
    "jpeg-profile": (".jpg", lambda: written("RGB", (8, 8), "JPEG", icc_profile=b"\xff" * 60_000)),
    "other-suffix": (".png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"),
    "svg": (
        ".png",
        lambda: (
            b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>'
        ),
    ),
    "xml-entities": (".png", lambda: b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">]><a>&a;</a>'),
    "psd": (
        ".png",
        lambda: b"8BPS\0\1" + b"\0" * 6 + b"\0\3" + b"\x7f\xff\xff\xff" * 2 + b"\0\10\0\3",
    ),
    "zeros": (".png", lambda: b"\0" * 1000),
}


@pytest.mark.parametrize("case", sorted(PICTURES))
@pytest.mark.parametrize("use", ["picture", "mask", "frame", "class picture"])
def test_a_picture(
    case: str, use: str, attack: Callable[..., Any], subject: Path, tmp_path: Path
) -> None:
    suffix, make = PICTURES[case]
    argv: list[Any] = [*FIT, "--dry-run"]
    if use == "mask":
        (subject / "masks").mkdir()
        place = subject / "masks" / f"a{suffix}"
    elif use == "frame":
        (subject / "clip").mkdir()
        (subject / "a.png").rename(subject / "clip" / "0.png")
        place = subject / "clip" / f"1{suffix}"
        argv[1], argv[argv.index("tiny")] = "motiondirector", "tiny-video"
        del argv[argv.index("--set") : argv.index("token.steps=1") + 1]
    elif use == "class picture":
        (tmp_path / "class").mkdir()
        place = tmp_path / "class" / f"000{suffix}"
        argv[1] = "dreambooth"
        argv[argv.index("token.steps=1")] = "all.steps=1"
        argv.remove("--dry-run")
        argv += ["--class-pictures", "class", "--set", "regularizers.prior_preservation.count=1"]
    else:
        place = subject / f"b{suffix}"
    place.write_bytes(make())
    outcome = attack(*argv).harmless()
    assert outcome.code in (0, 2), outcome
    assert outcome.seconds < 20, outcome


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_twelve_large_pictures(kind: str, attack: Callable[..., Any], subject: Path) -> None:
    """Each is small on disk; together they would be gigabytes of numbers."""
    large = written("RGB", (8000, 7999), kind)
    for number in range(12):
        (subject / f"{number}.{kind.lower()}").write_bytes(large)
    outcome = attack(*FIT, seconds=120, gigabytes=4)
    assert outcome.harmless().code == 0, outcome


MASKS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "L": lambda grey: grey,
    "1": lambda grey: grey.convert("1"),
    "I;16": lambda grey: Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
    "P": lambda grey: grey.convert("P"),
    "RGB": lambda grey: grey.convert("RGB"),
    "RGBA": lambda grey: Image.merge("RGBA", (grey, grey, grey, grey)),
    "black": lambda grey: Image.new("L", grey.size),
    "many colours": lambda grey: Image.merge(
        "RGB", (grey, Image.radial_gradient("L").resize(grey.size), grey)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(MASKS))
def test_large_masks(kind: str, attack: Callable[..., Any], subject: Path) -> None:
    """Each is small on disk; its levels are counted part by part, and one is held at a time."""
    large = written("RGB", (8000, 7999), "PNG")
    grey = Image.linear_gradient("L").resize((8000, 7999), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    MASKS[kind](grey).save(buffer, "PNG", compress_level=1)
    (subject / "masks").mkdir()
    (subject / "a.png").unlink()
    for number in range(2):
        (subject / f"{number}.png").write_bytes(large)
        (subject / "masks" / f"{number}.png").write_bytes(buffer.getvalue())
    outcome = attack(*FIT, seconds=120, gigabytes=4).harmless()
    assert outcome.code == (2 if kind in ("black", "many colours") else 0), outcome


def test_twelve_large_frames(tmp_path: Path) -> None:
    """Their sizes are added up before the first is decoded."""
    large = written("RGB", (8000, 7999), "PNG")
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(large)
    started = time.process_time()
    with pytest.raises(InputError, match="megapixels"):
        read_clip(tmp_path)
    assert time.process_time() - started < 1


@pytest.mark.slow
def test_a_folder_of_very_many_files(attack: Callable[..., Any], subject: Path) -> None:
    for number in range(20_000):
        (subject / f"{number}.txt").touch()
    attack(*FIT, seconds=60).harmless()


NUMBERS = ("1e9", "1000000000", "999999999999999999999", "1" + "0" * 5000, "-1", "0", "nan", "inf", "1e400",
           "0x7fffffff", "true", "[1]", "''")  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("key", ["token.batch", "token.accumulate", "token.steps", "tokens.learnable.rows",
                                 "sample.steps", "fit.seed", "tokens.learnable.init"])  # fmt: skip
def test_a_number_of_a_recipe(
    key: str, number: str, attack: Callable[..., Any], subject: Path
) -> None:
    if key == "token.steps" and number not in ("nan", "-1", "0", "true", "[1]", "''"):
        pytest.skip("many steps are a user's choice: they take time, not memory")
    argv = [f"{key}={number}" if a == "token.steps=1" else a for a in FIT]
    more = () if key == "token.steps" else ("--set", "token.steps=1")
    outcome = attack(*argv, *more, seconds=30).harmless()
    assert outcome.code in (0, 2), outcome


@pytest.mark.parametrize("number", ["1e9", "1000000000", "9" * 30, "-1", "0", "nan"])
@pytest.mark.parametrize("option", ["--count", "--steps", "--size", "--seed", "--scale"])
def test_a_number_of_an_option(option: str, number: str, attack: Callable[..., Any]) -> None:
    value = f"{number}x{number}" if option == "--size" else number
    argv = (*BASE, option, value, *(("--steps", 1) if option != "--steps" else ()))
    argv += () if option == "--count" else ("-n", 1)
    outcome = attack(*argv, seconds=30).harmless()
    assert outcome.code in (0, 2), outcome


@pytest.mark.parametrize(
    "prompt",
    ["a dog " * 200_000, "(" * 50_000 + "dog" + ")" * 50_000, "\0", "\ud800", "dog" + "+" * 50_000,
     "(dog:1e400)", "(dog:nan)", "(dog:" + "9" * 5000 + ")", "\U000e0001" * 1000, "e\u0301" * 100_000,
     "\u202e" * 500],
)  # fmt: skip
@pytest.mark.parametrize("weights", ["off", "a1111", "compel"])
def test_a_prompt(prompt: str, weights: str, attack: Callable[..., Any]) -> None:
    argv = ("sample", "--base", "tiny", prompt, "-o", "out", "-n", 1, "--steps", 1)
    outcome = attack(*argv, "--weights", weights, seconds=60).harmless()
    assert outcome.code in (0, 2), outcome


@pytest.mark.parametrize("count", [100_000, 1_000_000])
def test_a_layout_of_very_many_boxes(
    count: int, attack: Callable[..., Any], tmp_path: Path
) -> None:
    box = {"phrase": "dog", "box": [0.0, 0.0, 0.5, 0.5]}
    (tmp_path / "l.json").write_text(json.dumps({"boxes": [box] * count}))
    outcome = attack(*BASE, "-n", 1, "--steps", 1, "--layout", "l.json", seconds=60).harmless()
    assert outcome.seconds < 30, outcome


@pytest.mark.slow
def test_a_strip_of_previews_that_is_a_bomb(attack: Callable[..., Any], subject: Path) -> None:
    """The strip of an earlier fit is read to be grown."""
    argv = [a for a in FIT if a != "--no-preview"]
    argv[argv.index("token.steps=1")] = "token.steps=2"
    place = subject.parent / "out.partial" / "previews"
    place.mkdir(parents=True)
    (place.parent / "run.json").write_text("{}")
    texts = PngImagePlugin.PngInfo()
    texts.add_text("steps", "[" * 100_000)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(buffer, "PNG", pnginfo=texts)
    (place / "subject.png").write_bytes(buffer.getvalue())
    attack(*argv, "--preview-every", 1, "--resume", seconds=60).harmless()
