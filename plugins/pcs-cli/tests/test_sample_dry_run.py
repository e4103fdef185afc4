"""``pcs sample --dry-run`` prints what would be drawn, refuses what a drawing would, and makes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_the_plan_is_printed_and_nothing_drawn(pcs: Callable, fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    words = ["sample", fitted, "a <rex> on sand", "-n", 3, "--seed", 5, "--steps", 2, "--out", out]
    more = ["--negative", "fog", "--size", "40x32", "--strength", "learnable=0.5", "--dry-run"]
    done = pcs(*words, *more)
    assert done.code == 0, done.err
    for line in (
        "3 of 40 x 32 pixels on tiny (sha256 ",
        "seed 5 to 7",
        "prompt: a <rex> on sand",
        "negative: fog",
        f"artifact {fitted}: words, called <rex>",
        "2 steps, scale 2",
        "strengths: learnable=0.5",
        f"nothing was drawn; without --dry-run {out}/ gets 000.png ... 002.png sheet.png sample.json",
    ):
        assert line in done.out
    facts = json.loads(pcs(*words, *more, "--json").out)
    assert facts["files"] == ["000.png", "001.png", "002.png", "sheet.png", "sample.json"]
    assert (facts["size"], facts["settings"]["steps"]) == ([32, 40], 2)
    assert sorted(p.name for p in tmp_path.iterdir() if "pictures" in p.name) == []
    drawn = pcs(*words, *more[:-1], "--json")
    assert drawn.code == 0, drawn.err
    assert sorted(p.name for p in out.iterdir()) == sorted(facts["files"])
    written = json.loads((out / "sample.json").read_text("utf-8"))
    assert {key: facts[key] for key in written} == written


def test_what_clips_would_be_called(pcs: Callable, tmp_path: Path) -> None:
    words = ["sample", "--base", "tiny-video", "a dog", "-n", 1, "--out", tmp_path / "p"]
    facts = json.loads(pcs(*words, "--dry-run", "--json").out)
    assert facts["files"][0] == "000.png"
    assert facts["files"][1] in ("000.mp4", "000.gif")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a dog"], "does not name the subject"),
        (["a <rex>", "--size", "33x32"], "multiples of"),
        (["a <rex>", "--scheduler", "nope"], "unknown scheduler"),
        (["a <rex>", "--backbone", "tiny-v"], "has other weights"),
        (["a <rex>", "--steps", "5000"], "1000"),
    ],
)
def test_what_a_drawing_refuses_is_refused(
    pcs: Callable, fitted: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    done = pcs("sample", fitted, *words, "--out", tmp_path / "p", "--dry-run")
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "p").exists()
