"""``pcs sample --size`` and ``--aspect``: pictures of another size than the backbone's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageChops

TINY = ("sample", "--base", "tiny", "a dog", "--steps", 2, "--scale", 2)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--size", "48x32"), (48, 32)),
        (("--size", "32X64"), (32, 64)),
        (("--aspect", "2:1"), (44, 24)),
        (("--aspect", "9:16"), (24, 44)),
    ],
)
def test_sizes(
    pcs: Callable, tmp_path: Path, words: tuple[str, ...], expected: tuple[int, int]
) -> None:
    out = tmp_path / "pictures"
    done = pcs(*TINY, *words, "-n", 2, "--out", out)
    assert done.code == 0, done.err
    assert size_of(out / "001.png") == expected
    assert json.loads((out / "sample.json").read_text())["size"] == [expected[1], expected[0]]
    # each picture starts from noise of its own, whatever is drawn with it
    assert pcs(*TINY, *words, "-n", 1, "--seed", 1, "--out", tmp_path / "one").code == 0
    with Image.open(tmp_path / "one" / "000.png") as one, Image.open(out / "001.png") as other:
        assert max(high for _, high in ImageChops.difference(one, other).getextrema()) <= 1


def test_the_own_size_is_the_same_picture(pcs: Callable, tmp_path: Path) -> None:
    for name, words in (
        ("plain", ()),
        ("said", ("--size", "32x32")),
        ("square", ("--aspect", "1:1")),
    ):
        assert pcs(*TINY, *words, "-n", 1, "--out", tmp_path / name).code == 0
    pictures = {(tmp_path / n / "000.png").read_bytes() for n in ("plain", "said", "square")}
    assert len(pictures) == 1


@pytest.mark.parametrize(
    ("backbone", "words", "said"),
    [
        ("tiny", ("--size", "50x32"), "multiples of 4, not 50x32: the nearest is 48x32"),
        ("tiny-sd3", ("--size", "4096x32"), "sides of at most"),
        ("tiny", ("--size", "big"), "write width x height"),
        ("tiny", ("--size", "0x32"), "write width x height"),
        ("tiny", ("--aspect", "3"), "write width:height"),
        ("tiny", ("--aspect", "3:2", "--size", "48x32"), "leave out --aspect"),
    ],
)
def test_refused(
    pcs: Callable, tmp_path: Path, backbone: str, words: tuple[str, ...], said: str
) -> None:
    done = pcs("sample", "--base", backbone, "a dog", *words, "--out", tmp_path / "no")
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "backbone", ["tiny-sdxl", "tiny-sd3", "tiny-tokens", "tiny-v", "tiny-video"]
)
def test_every_family(pcs: Callable, tmp_path: Path, backbone: str) -> None:
    words = ("--size", "64x32", "--steps", 2, "-n", 1, "--out", tmp_path / "out")
    done = pcs("sample", "--base", backbone, "a dog", *words)
    assert done.code == 0, done.err
    width, height = size_of(tmp_path / "out" / "000.png")
    assert height == 32
    assert width == 64 or backbone == "tiny-video"  # frames side by side


def test_an_artifact_a_layout_and_a_stack(pcs: Callable, fitted: Path, tmp_path: Path) -> None:
    done = pcs("sample", fitted, "a <rex>", "--size", "48x32", "-n", 1, "--out", tmp_path / "one")
    assert done.code == 0, done.err
    assert size_of(tmp_path / "one" / "000.png") == (48, 32)
    placing = ("--backbone", "tiny", "--set", "sample.steps=2", "--no-preview")
    assert pcs("fit", "layout-control", *placing, "--out", tmp_path / "placing").code == 0
    box = {"phrase": "dog", "box": [0.0, 0.0, 0.5, 1.0]}
    (tmp_path / "layout.json").write_text(json.dumps({"boxes": [box]}), "utf-8")
    words = ("a photo of a dog", "-n", 1, "--layout", tmp_path / "layout.json", "--size", "64x32")
    done = pcs("sample", tmp_path / "placing", *words, "--out", tmp_path / "placed")
    assert done.code == 0, done.err
    assert size_of(tmp_path / "placed" / "000.png") == (64, 32)


def test_what_is_of_one_size_cannot_host_another(
    pcs: Callable, subject: Callable, tmp_path: Path
) -> None:
    import torch

    from pcs_core import load, open_backbone, sample
    from pcs_core.errors import CapabilityError

    words = ("--noun", "dog", "--token", "<rex>", "--backbone", "tiny", "--no-preview")
    fast = ("--set", "inversion.ddim.steps=2", "--set", "sample.steps=2")
    recipe = tmp_path / "inverted.toml"
    recipe.write_text(
        '[recipe]\nid = "inverted"\n[[use]]\ntechnique = "inversion.ddim"\n'
        '[[use]]\ntechnique = "attention.shared"\n'
    )
    done = pcs("fit", recipe, subject(), *words, *fast, "--out", tmp_path / "style")
    assert done.code == 0, done.err
    done = pcs("sample", tmp_path / "style", "a <rex>", "--size", "48x32", "--out", tmp_path / "no")
    assert done.code == 2
    assert "which 48x32 has no room for" in done.err
    backbone = open_backbone("tiny")
    with pytest.raises(CapabilityError, match="has no room for"):
        sample(load(tmp_path / "style"), backbone, "a <rex>", size=(32, 48))
    # and the backbone is as before
    assert tuple(backbone.card.size) == (32, 32)
    assert torch.is_tensor(sample(None, backbone, "a dog", steps=1))
