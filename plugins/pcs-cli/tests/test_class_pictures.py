"""``pcs fit --class-pictures``: one's own pictures of the class, and those that an earlier fit drew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcs_core import load

RECIPE = """
[recipe]
id = "prior"

[[use]]
technique = "weights.lora"

[[use]]
technique = "regularizers.prior_preservation"
count = 4
steps = 2

[[phase]]
name = "tune"
steps = 3
lr = 1e-3
batch = { subject = 1, prior = 2 }

[sample]
steps = 2
"""


@pytest.fixture
def arguments(subject: Callable, tmp_path: Path) -> list[object]:
    recipe = tmp_path / "prior.toml"
    recipe.write_text(RECIPE)
    words = ("--noun", "dog", "--token", "<rex>", "--backbone", "tiny", "--device", "cpu")
    return ["fit", recipe, subject(), *words, "--no-preview", "--class-pictures", tmp_path / "dogs"]


def drawn(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def same(one: Path, other: Path) -> bool:
    return (one / "weights.safetensors").read_bytes() == (
        other / "weights.safetensors"
    ).read_bytes()


def test_what_is_missing_is_drawn_and_used_again(
    pcs: Callable, arguments: list[object], tmp_path: Path
) -> None:
    dogs = tmp_path / "dogs"
    plan = pcs(*arguments, "--out", tmp_path / "a", "--dry-run")
    said = f"class pictures of 'a photo of a dog': 0 in {dogs}, 4 more are drawn and kept there"
    assert said in plan.out
    assert not dogs.exists()
    done = pcs(*arguments, "--out", tmp_path / "a")
    assert done.code == 0, done.err
    assert said in done.err
    names = [f"drawn-{n:05}.png" for n in range(4)]
    assert drawn(dogs) == ["class-pictures.json", *names]
    records = json.loads((dogs / "class-pictures.json").read_text())["pictures"]
    assert [(of["prompt"], of["backbone"], of["seed"]) for of in records.values()] == [
        ("a photo of a dog", "tiny", n) for n in range(4)
    ]
    before = {p: p.read_bytes() for p in dogs.iterdir()}
    done = pcs(*arguments, "--out", tmp_path / "b")
    assert f"4 in {dogs}, none is drawn" in done.err
    assert {p: p.read_bytes() for p in dogs.iterdir()} == before
    assert same(tmp_path / "a", tmp_path / "b")  # learned from the files both times
    (use,) = [u for u in load(tmp_path / "a").recipe.uses if "prior" in u.name]
    assert use.technique.class_pictures == str(dogs)  # type: ignore[attr-defined]
    # more are drawn by other seeds than those that are there
    more = ("--set", "regularizers.prior_preservation.count=6", "--seed", 1)
    done = pcs(*arguments, *more, "--out", tmp_path / "c")
    assert "4 in" in done.err
    assert "2 more are drawn" in done.err
    records = json.loads((dogs / "class-pictures.json").read_text())["pictures"]
    assert [of["seed"] for of in records.values()] == [0, 1, 2, 3, 5, 6]
    assert len({p.read_bytes() for p in dogs.glob("*.png")}) == 6


def test_ones_own(pcs: Callable, arguments: list[object], tmp_path: Path) -> None:
    dogs = tmp_path / "dogs"
    dogs.mkdir()
    for index in range(5):
        pixels = np.full((30 + 10 * index, 50, 3), 40 * index, np.uint8)
        Image.fromarray(pixels, "RGB").save(dogs / f"dog {index}.jpg")
    (dogs / "notes.txt").write_text("of my neighbour")
    plan = pcs(*arguments, "--out", tmp_path / "a", "--dry-run")
    assert f"5 in {dogs}, none is drawn" in plan.out
    assert f"left out of {dogs}: notes.txt" in plan.out
    before = drawn(dogs)
    done = pcs(*arguments, "--out", tmp_path / "a")
    assert done.code == 0, done.err
    assert drawn(dogs) == before  # nothing is written beside pictures that suffice
    (dogs / "dog 4.jpg").unlink()
    (dogs / "dog 3.jpg").unlink()
    done = pcs(*arguments, "--out", tmp_path / "b")
    assert "3 in" in done.err
    assert "1 more are drawn" in done.err
    assert len(list(dogs.glob("drawn-*.png"))) == 1
    (dogs / "dog 0.jpg").rename(dogs / "zoe.jpg")
    done = pcs(*arguments, "--out", tmp_path / "c")
    done = pcs(*arguments, "--out", tmp_path / "d")
    assert same(tmp_path / "c", tmp_path / "d")
    assert not same(tmp_path / "a", tmp_path / "b")


def test_pictures_of_something_else_are_said(
    pcs: Callable, arguments: list[object], tmp_path: Path
) -> None:
    assert pcs(*arguments, "--out", tmp_path / "a").code == 0
    other = ("--set", "regularizers.prior_preservation.prompt=a drawing of a {noun}")
    done = pcs(*arguments, *other, "--out", tmp_path / "b", "--dry-run")
    assert "4 of them were drawn of 'a photo of a dog' on tiny (sha256" in done.out
    assert "they are used all the same" in done.out
    arguments[arguments.index("tiny")] = "tiny-v"
    done = pcs(*arguments, "--out", tmp_path / "b")
    assert done.code == 0
    assert "this fit is on tiny-v" in " ".join(done.err.split())


def test_concepts_of_two_classes(pcs: Callable, arguments: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "subjects" / "rex"
    (folder / "subject.toml").write_text(
        '[[concept]]\ntoken="<rex>"\nnoun="dog"\n[[concept]]\ntoken="<tom>"\nnoun="cat"\n'
    )
    words = [w for w in arguments if w not in ("--noun", "dog", "--token", "<rex>")]
    done = pcs(*words, "--out", tmp_path / "a")
    assert done.code == 0, done.err
    assert drawn(tmp_path / "dogs") == ["a-photo-of-a-cat", "a-photo-of-a-dog"]
    assert len(list((tmp_path / "dogs" / "a-photo-of-a-cat").glob("*.png"))) == 4


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda dogs: dogs.write_text("no folder"), "is a file: give a folder"),
        (
            lambda dogs: (dogs.mkdir(), (dogs / "a.png").write_bytes(b"none")),
            "a.png is not an image",
        ),
        (
            lambda dogs: (dogs.mkdir(), (dogs / "class-pictures.json").write_text("{")),
            "class-pictures.json is damaged: remove it",
        ),
    ],
)
def test_folders_that_are_refused(
    pcs: Callable,
    arguments: list[object],
    tmp_path: Path,
    spoil: Callable[[Path], object],
    says: str,
) -> None:
    spoil(tmp_path / "dogs")
    done = pcs(*arguments, "--out", tmp_path / "a")
    assert done.code == 2
    assert says in done.err, done.err
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "a.partial").exists()


def test_what_has_none_and_the_subjects_own_folder(
    pcs: Callable, arguments: list[object], recipe: Path, tmp_path: Path
) -> None:
    done = pcs(arguments[0], recipe, *arguments[2:], "--out", tmp_path / "a")
    assert done.code == 2
    assert "'words' draws no class pictures: leave out --class-pictures" in done.err
    done = pcs(*arguments[:-1], arguments[2], "--out", tmp_path / "a")
    assert done.code == 2
    assert "is the folder of the subject" in done.err
