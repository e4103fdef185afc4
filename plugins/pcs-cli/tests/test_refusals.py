"""Every input that is refused: one message, exit code 2, nothing made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Spoil = Callable[[Path], None]


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def remove(folder: Path) -> None:
    empty(folder)
    folder.rmdir()


def only_text(folder: Path) -> None:
    empty(folder)
    (folder / "notes.txt").write_text("no picture")


def no_image(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"this is no picture")


def truncated(folder: Path) -> None:
    content = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])


def nothing_inside(folder: Path) -> None:
    (folder / "void.jpg").write_bytes(b"")


def bomb(folder: Path) -> None:
    Image.new("1", (9000, 9000)).save(folder / "huge.png")


def bad_caption(folder: Path) -> None:
    (folder / "0.txt").write_bytes(b"caf\xe9 \xff")


def bad_mask(folder: Path) -> None:
    Image.new("L", (3, 3)).save(folder / "0.mask.png")


def bad_subject(folder: Path) -> None:
    (folder / "subject.toml").write_text('[[concept]]\nnoun = "dog"\ntokn = "<rex>"\n')


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove, "rex"),
        (empty, "rex"),
        (only_text, "rex"),
        (no_image, "broken.png"),
        (truncated, "cut.png"),
        (nothing_inside, "void.jpg"),
        (bomb, "huge.png"),
        (bad_caption, "0.txt"),
        (bad_mask, "0.mask.png"),
        (bad_subject, "tokn"),
    ],
)
def test_folders(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, spoil: Spoil, says: str
) -> None:
    spoil(tmp_path / "subjects" / "rex")
    refuse(pcs, fit_arguments, tmp_path, says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--token", "dog"], "dog"),
        (["--token", "DOG"], "DOG"),
        (["--token", "photo"], "photo"),
        (["--token", "two words"], "two words"),
        (["--token", ""], "token"),
        (["--noun", ""], "noun"),
        (["--backbone", "tyni"], "tiny"),
        (["--backbone", "./no/such/folder"], "./no/such/folder"),
        (["--set", "words.setps=3"], "words.steps"),
        (["--set", "tokens.lernable.vectors=2"], "tokens.learnable.vectors"),
        (["--set", "tokens.learnable.vectors=0"], "vectors"),
        (["--set", 'tokens.learnable.vectors="2"'], "vectors"),
        (["--set", "words.lr=-1"], "lr"),
        (["--set", "words.lr=nan"], "lr"),
        (["--set", "sample.stepz=3"], "sample.steps"),
        (["--set", "nonsense"], "KEY=VALUE"),
        (["--device", "quantum"], "quantum"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_options(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, options: list[str], says: str
) -> None:
    refuse(pcs, [*fit_arguments, *options], tmp_path, says)


def test_a_token_and_noun_are_needed(
    pcs: Callable, recipe: Path, subject: Callable, tmp_path: Path
) -> None:
    arguments = ["fit", recipe, subject(), "--backbone", "tiny", "--out", tmp_path / "out" / "x"]
    refuse(pcs, arguments, tmp_path, "--noun")


@pytest.mark.parametrize(
    ("system", "says"),
    [
        ("textual-inversoin", "textual-inversion"),
        ("zzzz", "zzzz"),
        ("./wrods.toml", "wrods.toml"),
    ],
)
def test_systems(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, system: str, says: str
) -> None:
    fit_arguments[1] = system
    refuse(pcs, fit_arguments, tmp_path, says)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("tokens.learnable", "tokens.lernable", "tokens.learnable"),
        ("tokens.learnable", "attention.serial_adapter", "attention.parallel_adapter"),
        ("lr = ", "lrr = ", "lr"),
        ("steps = 6", 'steps = "6"', "steps"),
        ("[[phase]]", "[[phaze]]", "phase"),
        ("[sample]", "[sample", "words.toml"),
    ],
)
def test_recipes(
    pcs: Callable,
    fit_arguments: list[object],
    recipe: Path,
    tmp_path: Path,
    before: str,
    after: str,
    says: str,
) -> None:
    recipe.write_text(recipe.read_text().replace(before, after))
    refuse(pcs, fit_arguments, tmp_path, says)


def test_one_folder_twice(pcs: Callable, fit_arguments: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "subjects" / "rex"
    refuse(pcs, [*fit_arguments, folder], tmp_path, "one folder")


def test_two_folders_of_one_name(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    other = tmp_path / "others" / "rex"
    other.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(other / "0.png")
    refuse(pcs, [*fit_arguments, other], tmp_path, "both called 'rex'")


def test_out_is_a_file(pcs: Callable, fit_arguments: list[object], tmp_path: Path) -> None:
    file = tmp_path / "taken"
    file.write_text("")
    fit_arguments[-1] = file
    refuse(pcs, fit_arguments, tmp_path, "is a file")
    fit_arguments[-1] = file / "below"
    refuse(pcs, fit_arguments, tmp_path, "is a file")


def test_out_would_replace_the_input(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    for out in (tmp_path / "subjects" / "rex", tmp_path / "subjects", tmp_path):
        fit_arguments[-1] = out
        refuse(pcs, [*fit_arguments, "--overwrite"], tmp_path, "--out")
    assert (tmp_path / "subjects" / "rex" / "0.png").exists()


def test_out_is_the_current_folder(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    fit_arguments[-1] = "."
    refuse(pcs, fit_arguments, tmp_path, "current folder")


def refuse(pcs: Callable, arguments: list[object], folder: Path, says: str) -> None:
    before = sorted(folder.rglob("*"))
    done = pcs(*arguments)
    assert done.code == 2, done.err
    assert says in done.err
    assert not done.out
    assert sorted(folder.rglob("*")) == before
