"""A mask, however it was saved, is read as the region it shows, or refused with what it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from pcs_core.errors import InputError
from pcs_folders.mask_files import read_mask

Region = np.ndarray
"""[h w] of bool; True is the subject."""


def palette(region: Region, colours: bytes) -> Image.Image:
    image = Image.fromarray(region.astype(np.uint8), "P")
    image.putpalette(colours)
    return image


def alpha(region: Region) -> Image.Image:
    planes = np.zeros((*region.shape, 4), np.uint8)
    planes[..., :3] = 90
    planes[..., 3] = region * 255
    return Image.fromarray(planes, "RGBA")


def coloured(region: Region) -> Image.Image:
    planes = np.zeros((*region.shape, 3), np.uint8)
    planes[region] = (220, 40, 160)
    return Image.fromarray(planes, "RGB")


ENCODINGS: dict[str, Callable[[Region], Image.Image]] = {
    "0 and 255": lambda r: Image.fromarray((r * 255).astype(np.uint8)),
    "0 and 1": lambda r: Image.fromarray(r.astype(np.uint8)),
    "0 and 128": lambda r: Image.fromarray((r * 128).astype(np.uint8)),
    "0 and 7": lambda r: Image.fromarray((r * 7).astype(np.uint8)),
    "1 bit": lambda r: Image.fromarray((r * 255).astype(np.uint8)).convert("1"),
    "16 bits": lambda r: Image.fromarray((r * 65535).astype(np.uint16)),
    "16 bits, 0 and 1": lambda r: Image.fromarray(r.astype(np.uint16)),
    "16 bits, 0 and 255": lambda r: Image.fromarray((r * 255).astype(np.uint16)),
    "colour": lambda r: Image.fromarray((r * 255).astype(np.uint8)).convert("RGB"),
    "opaque": lambda r: Image.fromarray((r * 255).astype(np.uint8)).convert("RGBA"),
    "grey palette": lambda r: palette(r, bytes([0, 0, 0, 255, 255, 255])),
    "label palette": lambda r: palette(r, bytes([0, 0, 0, 128, 0, 0])),
    "transparency": alpha,
    "one colour on black": coloured,
    "grey and alpha": lambda r: Image.merge(
        "LA", [Image.fromarray((r * 255).astype(np.uint8)), Image.new("L", r.shape[::-1], 255)]
    ),
}


@st.composite
def regions(draw: st.DrawFn) -> Region:
    """Return a rectangle inside a picture: neither empty nor the whole of it."""
    width, height = draw(st.integers(4, 60)), draw(st.integers(4, 60))
    left, top = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    region = np.zeros((height, width), bool)
    region[top:bottom, left:right] = True
    assume(not region.all())
    return region


@given(region=regions(), encoding=st.sampled_from(sorted(ENCODINGS)))
def test_one_region_is_one_mask(region: Region, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mask.png"
    ENCODINGS[encoding](region).save(path)
    mask = read_mask(path).values
    assert mask.shape == (1, *region.shape)
    assert np.array_equal(mask[0].numpy(), region.astype(np.float32)), encoding


@given(
    sides=st.tuples(st.integers(16, 40), st.integers(16, 40)),
    ground=st.integers(12, 20),
    softness=st.integers(2, 6),
)
def test_soft_edges_stay(
    sides: tuple[int, int], ground: int, softness: int, tmp_path: Path
) -> None:
    region = np.pad(np.ones(sides, np.uint8) * 255, ground)
    soft = Image.fromarray(region).filter(ImageFilter.GaussianBlur(softness / 2))
    levels = np.asarray(soft)
    path = tmp_path / "a.mask.png"
    soft.save(path)
    assert np.abs(read_mask(path).values[0].numpy() - levels / 255).max() < 1e-6


@given(
    labels=st.lists(st.integers(1, 240), min_size=2, max_size=6, unique=True),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
)
def test_labels_of_several_things_are_refused(
    labels: list[int], size: tuple[int, int], tmp_path: Path
) -> None:
    """Stripes of several levels: reading them as brightness would count one thing and half of another."""
    assume(max(labels) < 0.9 * 255 or len(labels) > 2)
    width, height = size
    levels = np.zeros((height, width), np.uint8)
    for place, label in enumerate(labels):
        levels[:, (place + 1) * width // (len(labels) + 1) :] = label
    assume(len(np.unique(levels)) == len(labels) + 1)
    path = tmp_path / "a.mask.png"
    Image.fromarray(levels).save(path)
    with pytest.raises(InputError, match="labels|no mask") as said:
        read_mask(path)
    assert str(path) in str(said.value)


@given(region=regions())
def test_what_is_the_wrong_way_round_is_said(region: Region, tmp_path: Path) -> None:
    inner = np.zeros(tuple(n + 4 for n in region.shape), bool)
    inner[2:-2, 2:-2] = region
    assume(inner.mean() > 0.06)
    path = tmp_path / "a.mask.png"
    Image.fromarray((~inner * 255).astype(np.uint8)).save(path)
    assert "inverted" in " ".join(read_mask(path).notes)


@given(level=st.integers(0, 255), size=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_one_level_is_all_or_nothing_or_refused(
    level: int, size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "a.mask.png"
    Image.new("L", size, level).save(path)
    if level not in (0, 1, 255):
        with pytest.raises(InputError, match=f"level {level}"):
            read_mask(path)
        return
    mask = read_mask(path)
    assert mask.empty == (level == 0)
    assert bool((mask.values == (level > 0)).all())
    assert (level > 0) == ("white everywhere" in " ".join(mask.notes))


@given(noise=st.binary(min_size=0, max_size=400))
def test_bytes_are_no_mask(noise: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mask.png"
    path.write_bytes(noise)
    with pytest.raises(InputError) as said:
        read_mask(path)
    assert str(path) in str(said.value)
