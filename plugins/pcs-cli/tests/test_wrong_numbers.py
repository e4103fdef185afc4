"""A number that cannot be meant is refused in the same words by the command and by Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcs_cli.wrong_numbers import refuse_number
from pcs_core import fit, load, load_recipe, load_subject, sample
from pcs_core.errors import InputError, PcsError


@pytest.mark.parametrize(
    ("option", "value", "keyword"),
    [
        ("--steps", 0, "steps"),
        ("--steps", -1, "steps"),
        ("--count", 0, "count"),
        ("--count", -1, "count"),
        ("--seed", -1, "seed"),
        ("--scale", float("nan"), "scale"),
        ("--scale", float("inf"), "scale"),
        ("--scale", -2.0, "scale"),
    ],
)
def test_drawing(
    pcs: Callable, fitted: Path, tmp_path: Path, option: str, value: Any, keyword: str
) -> None:
    done = pcs("sample", fitted, "a <rex>", f"{option}={value}", "--out", tmp_path / "o")
    assert done.code == 2
    artifact = load(fitted)
    with pytest.raises(InputError) as caught:
        sample(artifact, prompts="a <rex>", **{keyword: value})
    assert done.err == f"Error: {caught.value}\n"
    assert f"{keyword}={value}: give a " in done.err
    assert not (tmp_path / "o").exists()


def test_fitting(
    pcs: Callable, fit_arguments: list[object], recipe: Path, subject: Callable
) -> None:
    rex = load_subject(fit_arguments[2], noun="dog", token="<rex>")  # type: ignore[arg-type]
    for option, value, keywords in (
        ("--seed", -1, {"seed": -1}),
        ("--set", "words.steps=-1", {}),
        ("--set", "sample.scale=nan", {}),
    ):
        done = pcs(*fit_arguments, option, value)
        changes = [value] if option == "--set" else []
        with pytest.raises(PcsError) as caught:
            fit(load_recipe(recipe, overrides=changes), rex, "tiny", **keywords)
        assert (done.code, done.err) == (2, f"Error: {caught.value}\n")
    done = pcs(*fit_arguments, "--keep-every", 0)
    assert done.err == "Error: keep_every=0: give a whole number, 1 or more\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("sample", "a", "b", "--steps", "two"), "steps='two': give a whole number, 1 or more"),
        (
            ("sample", "a", "b", "--steps", "2000"),
            "steps=2000: give a whole number, from 1 to 1000",
        ),
        (
            ("sample", "a", "b", "--scale", "200"),
            "scale=200.0: give a finite number, from 0 to 100",
        ),
        (("bench", "run", "--seeds", "0"), "seeds=0: give a whole number, 1 or more"),
        (
            ("mini", "train", "diffusion", "--decay-share", "2"),
            "decay_share=2.0: give a finite number",
        ),
    ],
)
def test_what_python_has_no_bound_for(
    pcs: Callable, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    done = pcs(*words, "--out", tmp_path / "o")
    assert done.code == 2
    assert says in done.err, done.err


def test_other_mistakes_are_the_parsers(pcs: Callable) -> None:
    done = pcs("fit", "x", "y", "--noo-preview", "--out", "z")
    assert done.code == 2
    assert "Usage" in done.err


def test_the_older_parser_says_it_in_its_message() -> None:
    """Before typer had a parser of its own, click's types held the bounds."""

    class IntRange:
        min, max = 1, 10

    class Option:
        name, type = "steps", IntRange()

    error = parser_error("0 is not in the range 1<=x<=10.", Option())
    with pytest.raises(InputError, match="steps=0: give a whole number, 1 or more"):
        refuse_number(error)
    refuse_number(ValueError("of something else"))


def parser_error(message: str, option: object) -> Exception:
    error = Exception(message)
    error.message, error.param = message, option  # type: ignore[attr-defined]
    return error
