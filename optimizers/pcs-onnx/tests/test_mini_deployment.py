"""The embedded backbone with its real weights draws the same pictures from its deployment."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcs_core import export, fit, load_recipe, load_subject, open_backbone
from pcs_core.catalogue import catalogue


@pytest.mark.rotated
def test_mini(tmp_path: Path, subject, trajectory, apart) -> None:
    pytest.importorskip("pcs_mini")
    mini = open_backbone("mini")
    settings = ["tune.steps=2", "tune.lr=1e-2"]
    recipe = load_recipe("lora-dreambooth", backbone="mini", overrides=settings)
    (artifact,) = fit(recipe, subject(1), mini)
    export(recipe, tmp_path / "out", to="onnx", backbone=mini)
    deployed = open_backbone(tmp_path / "out")
    actual = trajectory(artifact, deployed)
    assert apart(actual, trajectory(artifact, mini)) <= 1e-5
    assert apart(actual, trajectory(None, deployed, "a photo of a dog")) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "name"),
    [("ip-adapter", "dog_pug"), ("fastcomposer", "dog_pug"), ("instantid", "person_curly")],
)
def test_shipped_adapters(system: str, name: str, tmp_path: Path, trajectory, apart) -> None:
    """Trained weights, and a shipped subject of five references, encoded by the deployment itself."""
    pytest.importorskip("pcs_mini_adapters")
    mini = open_backbone("mini")
    subject = load_subject(catalogue().get("datasets", "mini.subjects")()[name])
    export(load_recipe(system, backbone="mini"), tmp_path / "out", to="onnx", backbone=mini)
    deployed = open_backbone(tmp_path / "out")
    prompt = f"a photo of {subject.concept.token} on the beach"
    (by_deployment,) = fit(system, subject, deployed)
    (by_network,) = fit(system, subject, mini)
    drawn, actual = trajectory(by_network, mini, prompt), trajectory(by_network, deployed, prompt)
    assert apart(actual, drawn) <= 1e-5
    assert apart(trajectory(by_deployment, deployed, prompt), drawn) <= 2e-5
    assert apart(actual, trajectory(None, deployed, "a photo of a dog")) > 1e-3
