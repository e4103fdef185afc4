"""Texts beyond the text encoder's length, through the command: they count, or what is cut off is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pcs_core.backbone import overlong, windows
from pcs_testing import pixels

FILLED = "a photo of a dog, " + "very big " * 12
"""More than the 22 tokens that the tiny text encoders read at once."""


@pytest.fixture(autouse=True)
def nothing_said_before() -> None:
    windows._tell.cache_clear()
    overlong._tell.cache_clear()


@pytest.fixture
def drawn(pcs: Callable, tmp_path: Path) -> Callable[..., tuple[bytes, str]]:
    """Draw one picture; return its pixels and what was said."""

    def draw(*words: object) -> tuple[bytes, str]:
        out = tmp_path / "pictures"
        done = pcs("sample", *words, "-n", 1, "--steps", 2, "--out", out, "--overwrite")
        assert done.code == 0, done.err
        return pixels(out / "000.png"), done.err

    return draw


@pytest.mark.parametrize("place", ["prompt", "negative"])
@pytest.mark.parametrize("backbone", ["tiny", "tiny-sdxl"])
def test_words_of_a_later_window_count(drawn: Callable, backbone: str, place: str) -> None:
    pictures = []
    for end in ("red on the beach", "blue in snow", "blue in snow"):
        long = FILLED + end
        texts = [long] if place == "prompt" else ["a dog", "--negative", long]
        pictures.append(drawn("--base", backbone, *texts, "--scale", 3))
    assert pictures[0][0] != pictures[1][0]
    assert pictures[1][0] == pictures[2][0]
    for _, said in pictures[:2]:
        assert said.count("windows of these") == 1
        assert "longer than the 22 tokens that the text encoder reads at once" in said


@pytest.mark.parametrize("place", ["prompt", "negative"])
@pytest.mark.parametrize("backbone", ["tiny-sd3", "tiny-tokens"])
def test_what_is_cut_off_is_said(drawn: Callable, backbone: str, place: str) -> None:
    long = FILLED + "blue in snow"
    texts = [long] if place == "prompt" else ["a dog", "--negative", long]
    _, said = drawn("--base", backbone, *texts, "--scale", 3)
    assert "these words are cut off" in said
    assert "blue in snow" in said
    assert "windows" not in said


def fitted_with(pcs: Callable, arguments: list[object], subject: Path, caption: str) -> str:
    (subject / "0.txt").write_text(caption, "utf-8")
    done = pcs(*arguments, "--overwrite", "--no-preview")
    assert done.code == 0, done.err
    return str(done.err)


def test_a_fit_reads_all_of_a_caption(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    folder, weights = Path(str(fit_arguments[2])), tmp_path / "out" / "rex" / "weights.safetensors"
    learned = []
    for end in ("<rex> on the beach", "<rex> in snow", "<rex> in snow"):
        said = fitted_with(pcs, fit_arguments, folder, FILLED + end)
        learned.append(weights.read_bytes())
        if len(learned) < 3:
            assert "windows of these" in said
    assert learned[0] != learned[1]
    assert learned[1] == learned[2]


def test_a_fit_says_what_is_cut_off(pcs: Callable, fit_arguments: list[object]) -> None:
    arguments = ["tiny-tokens" if word == "tiny" else word for word in fit_arguments]
    caption = f"<rex> {FILLED} blue in snow"
    said = fitted_with(pcs, arguments, Path(str(arguments[2])), caption)
    assert "these words are cut off" in said
    assert "blue in snow" in said


def test_a_token_that_would_be_cut_off_is_refused(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    arguments = ["tiny-tokens" if word == "tiny" else word for word in fit_arguments]
    (Path(str(arguments[2])) / "0.txt").write_text(f"{FILLED} <rex>", "utf-8")
    done = pcs(*arguments)
    assert done.code == 2
    assert "its placeholder lies beyond" in done.err
    assert not (tmp_path / "out").exists()


BOXED = """
[recipe]
id = "boxed"

[[use]]
technique = "tokens.learnable"

[[use]]
technique = "guidance.layout"
threshold = 0.0

[[phase]]
name = "words"
steps = 2
lr = 5e-3
"""


def test_a_box_of_a_phrase_in_a_later_window(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    recipe, layout, out = (tmp_path / name for name in ("boxed.toml", "layout.json", "boxed"))
    recipe.write_text(BOXED, "utf-8")
    fit = pcs("fit", recipe, *fit_arguments[2:], "--no-preview")
    assert fit.code == 0, fit.err
    pictures = []
    for box in ([0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]):
        layout.write_text(json.dumps({"boxes": [{"phrase": "red car", "box": box}]}))
        done = pcs(
            *("sample", fit_arguments[-1], FILLED + "<rex> beside a Red car", "--layout", layout),
            *("-n", 1, "--steps", 2, "--out", out, "--overwrite"),
        )
        assert done.code == 0, done.err
        pictures.append(pixels(out / "000.png"))
    assert pictures[0] != pictures[1]


HELD = """
[recipe]
id = "held"

[[use]]
technique = "tokens.learnable"

[[use]]
technique = "attention.localization_loss"
weight = WEIGHT

[[phase]]
name = "words"
steps = 2
lr = 5e-3
"""


def test_a_loss_over_attention_maps_reads_the_token_in_a_later_window(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    folder = Path(str(fit_arguments[2]))
    for index in range(2):
        mask = Image.new("L", (36, 40))
        mask.paste(255, (4, 4, 20, 20))
        mask.save(folder / f"{index}.mask.png")
        (folder / f"{index}.txt").write_text(FILLED + "and <rex> in snow")
    learned = []
    for weight in ("0.0", "5.0"):
        recipe = tmp_path / "held.toml"
        recipe.write_text(HELD.replace("WEIGHT", weight), "utf-8")
        done = pcs("fit", recipe, *fit_arguments[2:], "--no-preview", "--overwrite")
        assert done.code == 0, done.err
        learned.append((tmp_path / "out" / "rex" / "weights.safetensors").read_bytes())
    assert learned[0] != learned[1]
