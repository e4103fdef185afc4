"""``pcs bench run``, ``pcs bench report`` and ``pcs compare`` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pcs_cli.main import main
from pcs_core import write_png
from pcs_testing import make_picture

FEW = [
    *("--set", "lora-dreambooth:tune.steps=2", "--set", "sample.steps=2"),
    *("--backbone", "tiny", "--metrics", "", "--workers", "1", "--device", "cpu"),
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "rex"
    for number in range(2):
        write_png(make_picture(number), folder / f"{number}.png")
    return folder


@pytest.mark.rotated
def test_compare_then_report(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["compare", str(photos), "--noun", "dog", "--token", "<rex>", "--out", str(out), *FEW]
    words += ["--systems", "lora-dreambooth,lora-dreamboth", "--seeds", "1"]
    words += ["--prompt", "a photo of {token} in snow"]
    assert main(words) == 3  # one system is none: its rows say so
    said = capsys.readouterr()
    assert said.out.strip() == str(out / "report.html")
    assert "did you mean" in said.err
    assert "3 of 4 cells done" in said.err
    cells = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    assert {c["prompt"] for c in cells if c["state"] == "done"} == {
        "a photo of <rex> in snow",
        "a photo of a dog in snow",
    }
    assert main(["bench", "report", str(out)]) == 0
    assert len(capsys.readouterr().out.split()) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compare", "{photos}", "--systems", "dreambooth"], "noun"),
        (
            ["compare", "{photos}", "--noun", "dog", "--token", "<r>", "--systems", "dreambuth"],
            "did you mean 'dreambooth'",
        ),
        (
            [*"compare {photos} --noun dog --token <r> --systems oft --prompt".split(), "a dog"],
            "write {token}",
        ),
        (["bench", "run", "mini-objekt", "--systems", "oft"], "no suite 'mini-objekt'"),
        (["bench", "run", "mini-object", "--systems", ","], "at least one system"),
        (["bench", "run", "mini-object", "--systems", "oft", "--backbone", "tyny"], "tyny"),
        (["bench", "run", "mini-object", "--systems", "oft", "--set", "steps"], "KEY=VALUE"),
        (["bench", "run", "mini-object", "--systems", "oft", "--set", "tune.stps=2"], "tune.steps"),
        (["bench", "run", "mini-object", "--systems", "oft", "--engine", "rey"], "'ray'"),
        (["bench", "run", "mini-object", "--systems", "oft", "--metrics", "clip-ii"], "'clip-i'"),
    ],
)
def test_bad_input(
    photos: Path,
    tmp_path: Path,
    words: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.replace("{photos}", str(photos)) for word in words]
    few = [] if "tyny" in words else ["--backbone", "tiny"]
    few += [] if "--metrics" in words else ["--metrics", ""]
    assert main([*given, *few, "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "a refused command leaves nothing"


def test_a_place_for_the_results_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "run", "mini-object", "--systems", "lora-dreambooth", *FEW, "--out"]
    (tmp_path / "file").write_text("mine")
    assert main([*words, str(tmp_path / "file")]) == 2
    assert "give another folder" in capsys.readouterr().err
    assert main([*words, str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_report_of_no_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "report", str(tmp_path)]) == 2
    assert "holds no benchmark" in capsys.readouterr().err
