"""The embedded backbone with its real weights draws the same pictures from its deployment."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcs_core import fit, load_recipe, open_backbone
from pcs_core.engine import export


def test_mini(tmp_path: Path, subject, trajectory, apart) -> None:
    pytest.importorskip("pcs_mini")
    mini = open_backbone("mini")
    settings = ["tune.steps=2", "tune.lr=1e-2"]
    recipe = load_recipe("lora-dreambooth", backbone="mini", overrides=settings)
    (person,) = fit(recipe, subject(1), mini)
    export(recipe, tmp_path / "out", to="onnx", backbone=mini)
    deployed = open_backbone(tmp_path / "out")
    found = trajectory(person, deployed)
    assert apart(found, trajectory(person, mini)) <= 1e-5
    assert apart(found, trajectory(None, deployed, "a photo of a dog")) > 1e-3
