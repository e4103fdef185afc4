"""``pcs fit --size`` and ``--buckets``: the plan, the fit, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcs_core import load

SHAPES = {"wide": (60, 20), "tall": (20, 60), "square": (40, 40)}


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A subject of three shapes, one with a mask and one with a box."""
    folder, rng = tmp_path / "rex", np.random.default_rng(0)
    folder.mkdir()
    for name, (width, height) in SHAPES.items():
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    mask = Image.new("L", SHAPES["wide"], 0)
    mask.paste(255, (2, 4, 20, 16))
    mask.save(folder / "wide.mask.png")
    return folder


@pytest.fixture
def words(shapes: Path, layers: Path, tmp_path: Path) -> list[object]:
    return [
        *("fit", layers, shapes, "--noun", "dog", "--token", "<rex>", "--backbone", "tiny"),
        *("--device", "cpu", "--no-preview", "--out", tmp_path / "out"),
    ]


def test_the_plan_says_how_many_pictures_go_to_which_size(pcs: Callable, words: list) -> None:
    done = pcs(*words, "--buckets", "--dry-run", "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    (line,) = [line for line in facts["plan"] if "by their shape" in line]
    for size in ("1 at 52 x 16", "1 at 16 x 52", "1 at 32 x 32"):
        assert size in line
    assert facts["subjects"][0]["cropped"] == []
    without = json.loads(pcs(*words, "--dry-run", "--json").out)
    assert len(without["subjects"][0]["cropped"]) == 1  # the mask keeps the other in


def test_a_fit_of_buckets_and_of_another_size(pcs: Callable, words: list, tmp_path: Path) -> None:
    done = pcs(*words, "--buckets", "--size", "48x32", "--masked-loss")
    assert done.code == 0, done.err
    assert "by their shape" in done.err
    made = load(tmp_path / "out")
    assert made.extra["size"] == [32, 48]
    assert len(made.extra["buckets"]) == 3
    assert tuple(made.backbone.size) == (32, 32)
    plan = json.loads(pcs(*words, "--size", "48x32", "--dry-run", "--json", "--overwrite").out)
    assert plan["size"] == [32, 48]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--size", "33x32"), "multiples of 4"),
        (("--size", "big"), "as 768x512"),
        (("--size", "0x0"), "as 768x512"),
        (("--buckets", "--set", 'joint.batch={ subject = "all" }'), "shows all pictures"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    pcs: Callable, words: list, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    done = pcs(*words, *more)
    assert done.code == 2
    assert said in done.err
    assert not list(tmp_path.glob("out*"))
