"""The makers of drawings and panoramas, on tiny packages made here: no network."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pcs_mini.world.backdrops import SCENES, look
from pcs_mini.world.build import drawn, packages, panoramas
from pcs_mini.world.build.packages import Package, fetch, open_package

SQUARE = '<path fill="#f00" d="M2 2h8v4H2z"/>'
DISC = '<circle cx="8" cy="8" r="6" fill="#00f"/>'


def tar(files: dict[str, bytes], compression: str = "gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def deb(files: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0"), ("data.tar.xz", tar(files, "xz"))):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


def place(folder: Path, package: Package, data: bytes) -> Package:
    """The package with `data` as its file in `folder`, pinned to it."""
    (folder / package.file).write_bytes(data)
    return dataclasses.replace(package, sha256=hashlib.sha256(data).hexdigest())


def icon_set(icons: dict[str, str], **more: Any) -> bytes:
    table = {"icons": {n: {"body": b} for n, b in icons.items()}, "width": 16, "height": 16}
    return tar({"package/icons.json": json.dumps({**table, **more}).encode()})


def picture() -> bytes:
    image = Image.new("RGBA", (256, 256))
    image.paste((0, 255, 0, 255), (50, 10, 100, 210))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six sets of two concepts; the last two sets lack the second."""
    both = icon_set({"box": SQUARE, "disc": DISC})
    older = icon_set({"old-box": SQUARE}, aliases={"disk": {"parent": "old-box"}})
    data = {
        "rendered": tar({"package/assets/1.webp": picture(), "package/assets/2.webp": picture()})
    }
    for style, package in drawn.PACKAGES.items():
        contents = data.get(style, older if style in ("blob", "outlined") else both)
        monkeypatch.setitem(drawn.PACKAGES, style, place(tmp_path, package, contents))
    two = {
        "box": drawn.Concept("tool", "1", ("box", "old-box")),
        "disc": drawn.Concept("tool", "2", ("disc",)),
    }
    monkeypatch.setattr(drawn, "concepts", lambda: two)
    return tmp_path


def test_each_concept_in_each_style_that_has_it(sets: Path) -> None:
    lines: list[str] = []
    family = drawn.build(sets, lines.append)
    assert set(family.index["box"]["styles"]) == set(drawn.PACKAGES)
    assert set(family.index["disc"]["styles"]) == set(drawn.PACKAGES) - {"blob", "outlined"}
    files = {f for row in family.index.values() for f in row["styles"].values()}
    assert files == set(family.entries)
    assert [s["style"] for s in family.sources] == list(drawn.PACKAGES)
    assert "glossy: 2 of 2 concepts" in lines


def test_sprite_is_cropped_and_clean(sets: Path) -> None:
    entries = drawn.build(sets, lambda line: None).entries
    box = Image.open(io.BytesIO(entries["drawn/glossy/box.webp"]))
    assert box.size == (112, 56)
    tall = Image.open(io.BytesIO(entries["drawn/rendered/box.webp"])).convert("RGBA")
    assert tall.size == (28, 112)
    disc = np.asarray(Image.open(io.BytesIO(entries["drawn/flat/disc.webp"])).convert("RGBA"))
    assert disc[0, 0, 3] == 0
    assert disc[56, 56, 3] == 255
    assert disc[56, 56, 2] > 200
    assert disc[56, 56, 0] < 50


def test_a_concept_of_few_sets_is_refused(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "concepts", lambda: {"ball": drawn.Concept("toy", "1", ("ball",))})
    with pytest.raises(ValueError, match="'ball' is drawn by 1 sets only"):
        drawn.build(sets, lambda line: None)


def test_another_file_than_the_pinned_is_refused(sets: Path) -> None:
    (sets / drawn.PACKAGES["flat"].file).write_bytes(icon_set({"box": DISC, "disc": DISC}))
    with pytest.raises(ValueError, match="fluent-emoji-flat.*expected"):
        drawn.build(sets, lambda line: None)


def test_the_shipped_names_are_plain_and_unique() -> None:
    concepts = drawn.concepts()
    assert len(concepts) >= 640
    assert len({c.icons[0] for c in concepts.values()}) == len(concepts)
    assert {"dog", "fire engine", "penguin"} <= set(concepts)


def test_a_bad_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "files", lambda package: tmp_path)
    for text, message in (
        ('[animal]\n"Big dog" = ["1", "dog"]', "'Big dog' is not one or two"),
        ('[animal]\ndog = ["1", "dog"]\n[toy]\ndog = ["2", "toy"]', "in \\[toy\\] and \\[animal"),
        ('[animal]\ndog = ["1", "dog"]\nhound = ["1", "dog"]', "same icon 1"),
    ):
        (tmp_path / "drawn.toml").write_text(text)
        with pytest.raises(ValueError, match=message):
            drawn.concepts()


def test_a_debian_package_opens(tmp_path: Path) -> None:
    package = place(tmp_path, Package("a", "1", "", "MIT", "b", "debian"), deb({"./x/y": b"hello"}))
    with open_package(package, tmp_path) as contents:
        assert contents.read("x/y") == b"hello"
        with pytest.raises(FileNotFoundError, match="a_1_all.deb holds no z"):
            contents.read("z")


def test_a_missing_package_names_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError

    monkeypatch.setattr(packages.subprocess, "run", fails)
    with pytest.raises(FileNotFoundError, match="npm pack @a/b@1"):
        fetch(Package("@a/b", "1", "", "MIT", "c"), tmp_path)


def test_tone_map_exposes_by_the_median() -> None:
    light = np.full((60, 120, 3), 7.0, np.float32)
    light[30, 60] = (900, 0, 0)
    shown = panoramas.tone_map(light)
    assert np.array_equal(shown, panoramas.tone_map(light / 4)), "the exposure is relative"
    middle = 0.55 * (1 + 0.55 / 9) / 1.55
    assert abs(int(shown[0, 0, 0]) - middle ** (1 / 2.2) * 255) <= 1
    assert tuple(shown[30, 60]) == (255, 255, 255)


def test_a_wrapped_photo_has_no_seam_and_its_horizon_in_the_middle() -> None:
    photo = np.zeros((60, 120, 3), np.uint8)
    photo[:15] = 200
    photo[..., 0] = np.arange(120)
    wrapped = np.asarray(panoramas.wrap_photo(Image.fromarray(photo), horizon=0.75)).astype(int)
    assert wrapped.shape == (512, 1024, 3)
    assert abs(wrapped[:, 0, 0] - wrapped[:, -1, 0]).max() <= 1
    assert wrapped[250, 100, 1] > 190
    assert wrapped[262, 100, 1] < 10
    ahead = look(wrapped.astype(np.uint8), 90, 0, 75, 32)
    assert ahead[2, 16, 1] > 190
    assert ahead[29, 16, 1] < 10


def test_places_are_packed_with_phrases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exr = pytest.importorskip("OpenEXR")
    pixels = np.ones((8, 16, 3), np.float32)
    pixels[:4] = 2
    path = tmp_path / "t.exr"
    exr.File({"type": exr.scanlineimage}, {"RGB": pixels}).write(str(path))
    module = b"export default 'data:x;base64," + base64.b64encode(path.read_bytes()) + b"'"
    photo = io.BytesIO()
    Image.new("RGB", (30, 20), (9, 120, 9)).save(photo, "JPEG")
    data = {
        "npm": tar({"package/hdri/hut.exr.js": module}),
        "photo": deb({"./usr/share/backgrounds/hill.jpg": photo.getvalue()}),
    }
    for key, contents in data.items():
        package = place(tmp_path, panoramas.PACKAGES[key], contents)
        monkeypatch.setitem(panoramas.PACKAGES, key, package)
    about = {"author": "A", "licence": "CC0-1.0", "horizon": 0.5}
    rows = {
        "hut": {"package": "npm", "file": "hut", "phrase": "in a hut"},
        "hill": {"package": "photo", "file": "hill.jpg", "phrase": "on a hill", **about},
    }
    monkeypatch.setattr(panoramas, "places", lambda: rows)
    family = panoramas.build(tmp_path, lambda line: None)
    assert family.index["hut"] == {"file": "panoramas/hut.webp", "phrase": "in a hut"}
    hut = np.asarray(Image.open(io.BytesIO(family.entries["panoramas/hut.webp"])))
    assert hut.shape[:2] == (8, 16)
    assert hut[0].mean() > hut[7].mean() + 10
    assert family.sources[1]["photographs"] == [
        {"place": "hill", "file": "hill.jpg", "author": "A", "licence": "CC0-1.0"}
    ]
    assert list(panoramas.build(tmp_path, lambda line: None, limit=1).index) == ["hut"]


def test_the_shipped_places_have_distinct_names_and_phrases() -> None:
    rows = panoramas.places()
    phrases = [row["phrase"] for row in rows.values()]
    assert len(rows) >= 20
    assert len(set(phrases)) == len(rows)
    assert not set(rows) & set(SCENES), "a painted scene of the same name would never be drawn"
    assert not set(phrases) & set(SCENES.values())
