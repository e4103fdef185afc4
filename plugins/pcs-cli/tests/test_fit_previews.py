"""``pcs fit --preview-every``: a strip of pictures that grows, and the same result as without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

ROWS = (
    "--preview-every",
    2,
    "--preview-prompt",
    "a <rex> on a beach",
    "--preview-prompt",
    "{token}",
)


def strip(path: Path) -> tuple[list[int], list[str], tuple[int, int]]:
    with Image.open(path) as image:
        image.load()
        return json.loads(image.text["steps"]), json.loads(image.text["prompts"]), image.size


def test_a_strip_and_the_same_result(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    out, plain = tmp_path / "out" / "rex", tmp_path / "plain"
    done = pcs(*fit_arguments, *ROWS, "--preview-negative", "a cat", "--no-preview")
    assert done.code == 0, done.err
    assert "preview at step 2:" in done.err
    assert "preview at step 6:" not in done.err  # it lies in the artifact
    prompts = ["a <rex> on a beach", "<rex>"]
    # pictures of 32 pixels, a gap of 2 between them
    assert strip(out / "previews.png") == ([2, 4, 6], prompts, (66, 100))
    assert not (out / "preview.png").exists()
    assert sorted(p.name for p in out.parent.iterdir()) == ["rex"]
    assert pcs(*fit_arguments[:-1], plain, "--no-preview").code == 0
    same = (out / "weights.safetensors").read_bytes() == (
        plain / "weights.safetensors"
    ).read_bytes()
    assert same
    # the last row is what the artifact draws
    words = (out, "a <rex> on a beach", "-n", 1, "--negative", "a cat")
    assert pcs("sample", *words, "--out", tmp_path / "drawn").code == 0
    with (
        Image.open(out / "previews.png") as image,
        Image.open(tmp_path / "drawn" / "000.png") as one,
    ):
        assert image.crop((0, 68, 32, 100)).tobytes() == one.tobytes()
        assert image.crop((0, 0, 32, 32)).tobytes() != one.tobytes()


@pytest.mark.parametrize("use", ["weights.full", "weights.peft", "weights.lora"])
def test_drawing_with_the_live_network_changes_no_bit(
    pcs: Callable, subject: Callable, tmp_path: Path, use: str
) -> None:
    narrow = 'pattern = "*.to_k.weight"' if use == "weights.full" else ""
    recipe = tmp_path / "live.toml"
    recipe.write_text(
        f'[recipe]\nid = "live"\n[[use]]\ntechnique = "tokens.rare"\n[[use]]\ntechnique = "{use}"\n{narrow}\n'
        '[[phase]]\nname = "all"\nsteps = 4\nlr = 1e-2\nema = 0.9\n[sample]\nsteps = 2\n'
    )
    words = (
        recipe,
        subject(),
        "--noun",
        "dog",
        "--token",
        "<rex>",
        "--backbone",
        "tiny",
        "--no-preview",
    )
    for name, options in (("with", ("--preview-every", 1)), ("without", ())):
        done = pcs("fit", *words, *options, "--out", tmp_path / name)
        assert done.code == 0, done.err
        assert "no preview" not in done.err
    tensors = [(tmp_path / n / "weights.safetensors").read_bytes() for n in ("with", "without")]
    assert tensors[0] == tensors[1]
    assert strip(tmp_path / "with" / "previews.png")[0] == [1, 2, 3, 4]


def test_of_several_subjects(
    pcs: Callable, recipe: Path, subject: Callable, tmp_path: Path
) -> None:
    folders = [subject("rex"), subject("tom", seed=1)]
    words = ("--noun", "dog", "--token", "<it>", "--backbone", "tiny", "--no-preview")
    done = pcs("fit", recipe, *folders, *words, "--preview-every", 3, "--out", tmp_path / "both")
    assert done.code == 0, done.err
    pictures = []
    for name in ("rex", "tom"):
        steps, prompts, size = strip(tmp_path / "both" / name / "previews.png")
        assert (steps, prompts, size) == ([3, 6], ["a photo of <it>"], (32, 66))
        pictures.append((tmp_path / "both" / name / "previews.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_a_picture_that_fails_costs_nothing_else(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pcs_cli import fit_previews

    write, calls = fit_previews.write_row, []

    def once(*rest: object) -> None:
        calls.append(rest)
        if len(calls) == 1:
            raise MemoryError("no memory")
        write(*rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fit_previews, "write_row", once)
    done = pcs(*fit_arguments, *ROWS)
    assert done.code == 0, done.err
    assert "no preview of 'rex' at step 2 (no memory); the fit goes on" in done.err
    assert strip(tmp_path / "out" / "rex" / "previews.png")[0] == [4, 6]
    assert (tmp_path / "out" / "rex" / "preview.png").exists()


def test_a_strip_outlives_an_interruption(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pcs_cli import fit_previews

    monkeypatch.setattr("pcs_engine.checkpoints.SECONDS", 0.0)
    write = fit_previews.write_row

    def interrupted(path: Path, step: int, *rest: object) -> None:
        if step == 4:
            raise KeyboardInterrupt
        write(path, step, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(fit_previews, "write_row", interrupted)
        assert pcs(*fit_arguments, *ROWS).code == 130
    assert strip(tmp_path / "out" / "rex.partial" / "previews" / "rex.png")[0] == [2]
    done = pcs(*fit_arguments, *ROWS, "--resume")
    assert done.code == 0, done.err
    steps = strip(tmp_path / "out" / "rex" / "previews.png")[0]
    assert steps[0] == 2
    assert steps[-1] == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--preview-prompt", "a dog"), "'a dog' does not name 'rex': write <rex>, or {token}"),
        (("--preview-prompt", " "), "not empty"),
        (("--preview-negative", "a cat", "--no-preview"), "add --preview-every N"),
        (("--preview-every", 7), "the fit has 6 steps"),
    ],
)
def test_what_is_refused_before_the_fit(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    done = pcs(*fit_arguments, *words)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "out").exists()
