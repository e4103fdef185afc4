"""The study of kept checkpoints: a row per subject, resumable, and an answer either way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcs_bench.run.watch_study import summary
from pcs_cli.main import main


def words(out: Path, *more: str) -> list[str]:
    given = ["bench", "watch", "mini-object", "--limit", "1", "--prompts", "1", "--seeds", "1"]
    given += ["--backbone", "tiny", "--device", "cpu", "--checkpoints", "2", "--out", str(out)]
    given += ["--metrics", "mini.clip-t,mini.clip-i", "--set", "tune.steps=4"]
    return [*given, "--set", "sample.steps=2", *more]


def test_one_subject_one_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path)) == 0
    said = capsys.readouterr()
    assert "Over 1 subjects" in said.out
    document = json.loads((tmp_path / "watch.json").read_text())
    (row,) = document["subjects"]
    assert row["key"] == "mini-object/backpack_outlined"
    assert row["of"] == 2
    assert 0 <= row["watched"]["quality"] <= 1
    if row["kept"] == 2:
        assert row["watched"] == row["last"]
    assert document["summary"]["verdict"] == "undecided"  # one subject proves nothing
    stamp = (tmp_path / "watch.jsonl").read_bytes()
    assert main(words(tmp_path)) == 0  # nothing is fitted again
    assert (tmp_path / "watch.jsonl").read_bytes() == stamp


def test_several_suites_are_one_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fixed_row(
        place: Any, recipe: Any, eyes: Any, name: str, checkpoints: int
    ) -> dict[str, Any]:
        assert name in {s.name for s in place.suite.subjects}
        return row(name, 0.6, 0.5)

    monkeypatch.setattr("pcs_bench.run.watch_study._subject", fixed_row)
    given = words(tmp_path, "--limit", "2")
    assert main([*given[:3], "mini-pet", *given[3:]]) == 0
    assert "Over 4 subjects" in capsys.readouterr().out
    result = json.loads((tmp_path / "watch.json").read_text())
    assert [p["suite"] for p in result["protocols"]] == ["mini-object", "mini-pet"]
    assert len({r["protocol"] for r in result["subjects"]}) == 2


def test_a_subject_that_fails_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pcs_core

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(pcs_core, "fit", broken)
    assert main(words(tmp_path)) == 3
    document = json.loads((tmp_path / "watch.json").read_text())
    assert document["subjects"][0]["error"] == "RuntimeError: no memory"
    assert document["summary"]["verdict"] == "not tested"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--system", "lora-dreamboth"], "did you mean 'lora-dreambooth'"),
        (["--metrics", "mini.clip-t"], "give two"),
        (["--metrics", "mini.clip-t,mini.clip-x"], "did you mean"),
        (["--set", "tune.stps=3"], "stps"),
    ],
)
def test_bad_input(
    tmp_path: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path / "out", *more)) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def row(name: str, watched: float, last: float, kept: int = 3) -> dict[str, Any]:
    scores = {"alignment": 0.5, "fidelity": 0.5}
    return {
        **{"key": name, "kept": kept, "of": 8},
        **{"watched": {**scores, "quality": watched}, "last": {**scores, "quality": last}},
    }


def test_the_answer_falls_either_way() -> None:
    better = summary([row(str(i), 0.6 + i / 100, 0.4) for i in range(8)])
    assert better["verdict"] == "beats the last step"
    assert better["p"] == pytest.approx(2 / 2**8)
    worse = summary([row(str(i), 0.4, 0.6 + i / 100) for i in range(8)])
    assert worse["verdict"] == "loses to the last step"
    same = summary([row(str(i), 0.5, 0.5, kept=8) for i in range(8)])
    assert (same["verdict"], same["p"]) == ("undecided", 1)
    assert "the last step itself 8" in same["answer"]
    assert summary([{"key": "a", "error": "x"}])["n"] == 0
