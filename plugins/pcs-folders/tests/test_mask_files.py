"""A mask is one and the same whatever levels it was saved with, or it is refused with those found."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_core.errors import InputError
from pcs_folders import mask_files
from pcs_folders.mask_files import read_mask

INSIDE = np.zeros((10, 12), dtype=np.uint8)
INSIDE[2:8, 3:9] = 1
WANT = torch.from_numpy(INSIDE).float()[None]


def palette(colours: list[int]) -> Image.Image:
    image = Image.fromarray(INSIDE).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(colours + [0] * (768 - len(colours)))
    return image


def alpha(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGBA", (12, 10), (*colour, 255))
    image.putalpha(Image.fromarray(INSIDE * 255))
    return image


SAME = {
    "zero and one": Image.fromarray(INSIDE),
    "zero and 255": Image.fromarray(INSIDE * 255),
    "zero and 128": Image.fromarray(INSIDE * 128),
    "bilevel": Image.fromarray(INSIDE * 255).convert("1"),
    "16 bits": Image.fromarray(INSIDE.astype(np.uint16) * 65535),
    "16 bits, zero and one": Image.fromarray(INSIDE.astype(np.uint16)),
    "colour": Image.fromarray(INSIDE * 255).convert("RGB"),
    "red on black": Image.fromarray(np.stack([INSIDE * 200, INSIDE * 0, INSIDE * 0], -1)),
    "palette of greys": palette([0, 0, 0, 255, 255, 255]),
    "palette of a segmentation": palette([0, 0, 0, 128, 0, 0]),
    "white and clear": alpha((255, 255, 255)),
    "black and clear": alpha((0, 0, 0)),
    "cut out of a picture": alpha((200, 120, 30)),
}


@pytest.mark.parametrize("name", SAME)
def test_one_mask_however_it_was_saved(tmp_path: Path, name: str) -> None:
    SAME[name].save(tmp_path / "m.png")
    assert torch.equal(read_mask(tmp_path / "m.png").values, WANT)


def test_soft_edges_stay(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8)[None].repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path / "m.png")
    assert torch.allclose(read_mask(tmp_path / "m.png").values[0], torch.from_numpy(ramp) / 255)


def test_brightness_counts_where_the_file_is_opaque(tmp_path: Path) -> None:
    pixels = np.array([[[255, 255, 255, 255], [255, 255, 255, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert torch.equal(read_mask(tmp_path / "m.png").values, torch.tensor([[[1.0, 0.0, 0.0]]]))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (INSIDE * 2 + (INSIDE.cumsum(0) > 3), "holds 4 labels (0, 1, 2, 3)"),
        (INSIDE * 120 + 60, "levels 60 to 180 of 0 to 255"),
        (INSIDE * 0 + 7, "every pixel has the level 7 of 0 to 255"),
        (np.arange(120, dtype=np.uint8).reshape(10, 12), "levels 0 to 119 of 0 to 255"),
        (np.arange(120, dtype=np.uint16).reshape(10, 12), "levels 0 to 119 of 0 to 65535"),
        (np.random.default_rng(0).integers(0, 255, (10, 12, 3), dtype=np.uint8), "colours"),
        (np.kron(np.arange(4), np.full((8, 4), 85)).astype(np.uint8), "4 labels (0, 85, 170, 255)"),
    ],
)
def test_what_is_no_mask_is_refused_with_its_levels(
    tmp_path: Path, levels: np.ndarray, message: str
) -> None:
    Image.fromarray(levels).save(tmp_path / "m.png")
    with pytest.raises(InputError) as caught:
        read_mask(tmp_path / "m.png")
    assert message in str(caught.value)
    assert "m.png" in str(caught.value)


def test_a_palette_of_several_labels_is_refused(tmp_path: Path) -> None:
    image = palette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.putpixel((0, 0), 2)
    image.save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"holds 3 labels \(0, 1, 2\)"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize(
    ("levels", "note"),
    [
        ((1 - INSIDE) * 255, "is it inverted"),
        (INSIDE * 0 + 255, "the whole picture counts"),
        (INSIDE * 0 + 1, "the whole picture counts"),
        (INSIDE, "levels 0 and 1: 1 is read as the subject"),
    ],
)
def test_what_may_surprise_is_said(tmp_path: Path, levels: np.ndarray, note: str) -> None:
    Image.fromarray(levels).save(tmp_path / "m.png")
    assert note in read_mask(tmp_path / "m.png").notes[0]


def test_an_empty_mask_is_known_as_such(tmp_path: Path) -> None:
    Image.fromarray(INSIDE * 0).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").empty


@pytest.mark.parametrize(
    ("levels", "note"),
    [
        (np.where(np.arange(100) < 70, 0, np.where(np.arange(100) < 85, 128, 255)), "15 % of it"),
        (np.linspace(0, 255, 100), "of it is neither black nor white: is it a mask"),
    ],
)
def test_what_is_neither_black_nor_white_is_said(
    tmp_path: Path, levels: np.ndarray, note: str
) -> None:
    Image.fromarray(levels.round().astype(np.uint8)[None].repeat(4, 0)).save(tmp_path / "m.png")
    assert note in read_mask(tmp_path / "m.png").notes[0]


LARGE = (1200, 1300)


@pytest.mark.parametrize("mode", ["L", "1", "I;16", "P", "RGB", "RGBA", "F", "colour"])
def test_a_large_mask_is_read_part_by_part(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's own planes, the mask in 32 bits and little more: 64 megapixels fit into a gigabyte."""
    levels = np.zeros(LARGE, np.uint8)
    levels[300:900, 200:700] = 255
    planes = {
        "I;16": levels.astype(np.uint16) * 257,
        "RGBA": np.dstack([levels] * 4),
        "F": levels.astype(np.float32) / 255,
        "colour": np.dstack([levels, levels * 0, levels * 0]),
    }
    image = Image.fromarray(planes.get(mode, levels))
    file = tmp_path / ("a.tif" if mode == "F" else "a.png")
    (image.convert(mode) if mode in ("1", "P", "RGB") else image).save(file)
    monkeypatch.setattr(mask_files, "BLOCK", 2**14)
    tracemalloc.start()
    mask = read_mask(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert torch.equal(mask.values[0], torch.from_numpy(levels / 255).float())
    assert peak < 14 * levels.size + 2**24, (
        peak / levels.size
    )  # a byte for each colour that there is
