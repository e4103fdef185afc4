"""``pcs sample --weights``: weights of words are read where they are asked for, and said where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_core.backbone import weighed
from pcs_tokens import prompt_weights


@pytest.fixture(autouse=True)
def nothing_said_before() -> None:
    weighed._tell.cache_clear()
    prompt_weights.tell_unread.cache_clear()


@pytest.fixture
def drawn(pcs: Callable, fitted: Path, tmp_path: Path) -> Callable[..., tuple[bytes, str]]:
    """Draw one picture of the fitted subject; return its file and what was said."""

    def draw(*words: object) -> tuple[bytes, str]:
        out = tmp_path / "pictures"
        done = pcs("sample", fitted, *words, "-n", 1, "--steps", 2, "--out", out, "--overwrite")
        assert done.code == 0, done.err
        return (out / "000.png").read_bytes(), done.err

    return draw


@pytest.mark.parametrize(
    ("syntax", "weighed_prompt", "plain"),
    [
        ("a1111", "a (<rex>:1.6) on [grass]", "a <rex> on grass"),
        ("compel", "a (<rex>)1.6 on grass--", "a <rex> on grass"),
    ],
)
def test_words_weigh(
    drawn: Callable, tmp_path: Path, syntax: str, weighed_prompt: str, plain: str
) -> None:
    usual, _ = drawn(plain)
    picture, said = drawn(weighed_prompt, "--weights", syntax)
    assert picture != usual
    assert "read as it is written" not in said
    document = json.loads((tmp_path / "pictures" / "sample.json").read_text())
    assert document["prompt"] == weighed_prompt
    (use,) = document["preset"]["uses"]
    assert (use["technique"], use["syntax"]) == ("tokens.prompt_weights", syntax)
    again, _ = drawn(weighed_prompt, "--weights", syntax)
    assert again == picture
    # a prompt that says no weight is drawn as ever
    assert drawn(plain, "--weights", syntax)[0] == usual


def test_a_negative_prompt_weighs(drawn: Callable) -> None:
    pictures = [
        drawn("a <rex>", "--negative", negative, "--weights", "a1111", "--scale", 3)[0]
        for negative in ("a (red:1.6) car", "a red car")
    ]
    assert pictures[0] != pictures[1]


def test_a_sign_may_be_itself(drawn: Callable) -> None:
    plain, _ = drawn("a <rex> (red)")
    assert drawn(r"a <rex> \(red\)", "--weights", "a1111")[0] == plain
    assert drawn("a <rex> (red)", "--weights", "a1111")[0] != plain


@pytest.mark.parametrize("off", [[], ["--weights", "off"]])
def test_brackets_mean_nothing_where_nobody_asked(drawn: Callable, off: list[str]) -> None:
    picture, said = drawn("a <rex> (red:1.3) toy", *off)
    assert "'(red:1.3)' is read as it is written" in said
    assert "--weights a1111" in said
    assert said.count("read as it is written") == 1
    _, said = drawn("a <rex> (red), at 10:30 [toy]", *off)
    assert "read as it is written" not in said
    assert picture


@pytest.mark.parametrize(
    ("prompt", "shown", "syntax"),
    [
        ("a <rex> (red:1.3", "(red:1.3", "where its bracket is closed: --weights a1111"),
        ("a <rex>, (red:1.3 toy on grass", "(red:1.3", "where its bracket is closed"),
        ("a <rex> ((red) toy:1.3)", "((red) toy:1.3)", "reads it: --weights a1111"),
        ("a <rex> (red: -0.5)", "(red: -0.5)", "reads it: --weights a1111"),
        ("a (<rex>)1.3 on grass", ")1.3", "reads it: --weights compel"),
        ("a <rex> on (green grass)++", "(green grass)++", "reads it: --weights compel"),
        ("a <rex> on green++ grass", "green++", "reads it: --weights compel"),
    ],
)
def test_what_looks_like_a_weight_is_said(
    drawn: Callable, prompt: str, shown: str, syntax: str
) -> None:
    _, said = drawn(prompt)
    assert f"{shown}' is read as it is written" in said
    assert syntax in said


@pytest.mark.parametrize(
    "prompt",
    ["<rex> (at 10:30 in the evening", "a 4:3 <rex> (16:9", r"\(red:1.3\) <rex>", "a B+ <rex> :)"],
)
def test_what_does_not_look_like_one_is_not(drawn: Callable, prompt: str) -> None:
    assert "read as it is written" not in drawn(prompt)[1]


@pytest.mark.parametrize(
    ("prompt", "syntax", "said"),
    [
        ("a (red <rex>:1.3)", "compel", "'(red <rex>:1.3)' weighs nothing as compel reads it"),
        ("a <rex> (red)1.3", "a1111", "'(red)1.3' weighs nothing as a1111 reads it"),
        (
            "a <rex> (red:1.3",
            "a1111",
            "'(red:1.3' is never closed: as a1111 reads it, it weighs 1.1",
        ),
    ],
)
def test_a_weight_of_the_other_syntax_is_said(
    drawn: Callable, prompt: str, syntax: str, said: str
) -> None:
    assert drawn(prompt, "--weights", syntax)[1].count(said) == 1
    assert "weighs nothing" not in drawn("a <rex> (red) toy", "--weights", syntax)[1]


def test_a_file_named_in_a_prompt_is_said_to_be_read_as_words(drawn: Callable) -> None:
    assert (
        "'<lora:style:0.8>' is read as words, and no file is loaded"
        in drawn("a <rex> <lora:style:0.8>")[1]
    )


def test_a_caption_that_looks_weighted_is_said(pcs: Callable, fit_arguments: list[object]) -> None:
    (Path(str(fit_arguments[2])) / "0.txt").write_text("a <rex>, (red:1.3) toy", "utf-8")
    done = pcs(*fit_arguments, "--no-preview")
    assert done.code == 0, done.err
    assert "'(red:1.3)' is read as it is written" in done.err


def test_what_a_user_wrote_is_shown_as_it_stands(
    pcs: Callable, fitted: Path, tmp_path: Path
) -> None:
    """A terminal's library makes a picture of a word between colons, if it is let."""
    done = pcs(
        "sample", fitted, "a <rex> <lora:x:1>", "--steps", 1, "-n", 1, "--out", tmp_path / "p"
    )
    assert done.code == 0, done.err
    assert "'<lora:x:1>' is read as words" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a <rex>", "--weights", "a111"], "--weights a111: unknown syntax, did you mean 'a1111'?"),
        (
            ["a <rex> [red:blue:0.5]", "--weights", "a1111"],
            "the prompt 'a <rex> [red:blue:0.5]': '[red:",
        ),
        (["a [cat:<rex>:0.5]", "--weights", "a1111"], "'[cat:<rex>:0.5]' is of a1111's syntax"),
        (
            ["a (<rex>", "--weights", "compel"],
            "the prompt 'a (<rex>': a bracket '(' has no other one",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(
    pcs: Callable, fitted: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    nowhere = ("--backbone", tmp_path / "nowhere")  # which is looked at later
    done = pcs("sample", fitted, *words, "--steps", 1, "--out", tmp_path / "p", *nowhere)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "p").exists()


def test_a_weight_in_a_longer_text(drawn: Callable) -> None:
    filled = "very big " * 12
    pictures = [
        drawn(f"a <rex>, {filled} {end}", "--weights", "a1111")[0]
        for end in ("(red:1.6) car", "red car")
    ]
    assert pictures[0] != pictures[1]
