"""How long a run takes is counted from the recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pcs_bench.run.estimate import Units, cost
from pcs_cli.main import main
from pcs_core import load_recipe


def test_rows_and_steps_are_counted(tmp_path: Path) -> None:
    recipe = load_recipe("lora-dreambooth", overrides=["tune.steps=100", "sample.steps=20"])
    batch = sum(recipe.phases[0].batch.values())
    actual = cost(recipe, Units(train=0.01, draw=0.001), subjects=2, pictures=10)
    assert actual.rows == 100 * batch
    assert actual.steps == 40  # two sides of guidance
    assert actual.fit == pytest.approx(batch)
    assert actual.picture == pytest.approx(0.04)
    assert actual.minutes == pytest.approx(2 * (batch + 0.4) / 60)
    prior = cost(load_recipe("dreambooth", backbone="mini"), Units(1, 1), 1, 1)
    assert prior.drawn == 16 * 20 * 2


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "bench",
        "estimate",
        "mini-object",
        "--backbone",
        "tiny",
        "--limit",
        "1",
        "--seeds",
        "1",
    ]
    words += ["--systems", "lora-dreambooth,lora-dreamboth", "--prompts", "1"]
    assert main([*words, "--minutes", "0"]) == 0
    said = capsys.readouterr().out
    assert "too long" in said
    assert "did you mean 'lora-dreambooth'" in said
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["systems"][0]["rows"] > 0
    assert printed["minutes"] > 0


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "estimate", "mini-objekt"]) == 2
    assert "did you mean 'mini-object'" in capsys.readouterr().err
