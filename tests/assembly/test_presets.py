"""Presets: read strictly, resolved per backbone, and only ever put over a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcs_cli import read_verdict, write_verdict
from pcs_core.assembly import load_preset
from pcs_core.data import BackboneCard, SampleSettings
from pcs_core.errors import InputError, RecipeError, UnknownNameError

TEXT = """
[preset]
id = "quick"
title = "Fewer steps"

[[use]]
technique = "guidance.layout"
weight = 10.0

[sample]
steps = 8
scheduler = "dpm++"

[gate]
identity = 0.02

[backbone.mini.sample]
steps = 6

[backbone.mini.use."guidance.layout"]
weight = 5.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text(TEXT)
    return path


def test_a_backbones_table_and_overrides_apply(file: Path) -> None:
    plain, mini = load_preset(file), load_preset(file, backbone="mini")
    assert (plain.sample["steps"], mini.sample["steps"]) == (8, 6)
    assert [p.uses[0].technique.settings()["weight"] for p in (plain, mini)] == [10.0, 5.0]
    assert plain.hash != mini.hash
    changed = load_preset(file, overrides=["guidance.layout.weight=1.5", "sample.steps=3"])
    assert changed.uses[0].technique.settings()["weight"] == 1.5
    assert changed.sample["steps"] == 3
    over = changed.over(SampleSettings(scale=2.5))
    assert (over.steps, over.scale, over.scheduler) == (3, 2.5, "dpm++")
    assert plain.bounds == {"identity": 0.02}


def test_techniques_can_be_named_alone() -> None:
    preset = load_preset(techniques=["guidance.layout"], overrides=["guidance.layout.steps=2"])
    assert preset.uses[0].technique.settings()["steps"] == 2
    assert not preset.sample
    assert preset.path == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 8", "stepz = 8", "unknown setting 'stepz', did you mean 'steps'"),
        ("weight = 10.0", "wait = 10.0", "unknown setting 'wait'"),
        ("[gate]", "[gates]", "unknown table 'gates', did you mean 'gate'"),
        ("identity = 0.02", "identity = 'little'", r"\[gate\] holds numbers"),
        ('id = "quick"', 'id = "Qu ick"', r"\[preset\]"),
        ("[preset]", "[recipe]", "unknown table 'recipe'"),
        ("guidance.layout", "guidance.lay", "did you mean 'guidance.layout'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(RecipeError, match=message):
        load_preset(path)


def test_a_phase_belongs_into_a_recipe(file: Path) -> None:
    with pytest.raises(RecipeError, match="a preset changes how pictures are drawn"):
        load_preset(file, overrides=["fit.cycles=2"])


def test_names_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no preset 'fastest'"):
        load_preset("fastest")
    with pytest.raises(InputError, match="cannot be read"):
        load_preset(tmp_path / "gone.toml")


def test_a_verdict_is_about_one_text_and_one_network(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PCS_VERDICTS", str(tmp_path / "mine"))
    card = BackboneCard("mini", "a" * 64, "sd", (64, 64), "epsilon")
    preset = load_preset(file)
    assert read_verdict(preset, card, "oft") is None
    write_verdict(preset, card, "oft", {"passed": True, "summary": "as good"})
    assert read_verdict(preset, card, "oft")["summary"] == "as good"  # type: ignore[index]
    assert read_verdict(preset, card, "svdiff") is None
    other = BackboneCard("mini", "b" * 64, "sd", (64, 64), "epsilon")
    assert read_verdict(preset, other, "oft") is None
    changed = load_preset(file, overrides=["sample.steps=2"])
    assert read_verdict(changed, card, "oft") is None
    monkeypatch.setenv("PCS_VERDICTS", str(tmp_path / "none"))
    assert read_verdict(preset, card, "oft") is None
    write_verdict(
        preset, card, "oft", {"passed": False, "summary": "came with it"}, tmp_path / "verdicts"
    )
    assert read_verdict(preset, card, "oft")["passed"] is False  # type: ignore[index]
