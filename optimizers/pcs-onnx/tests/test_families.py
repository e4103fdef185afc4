"""Networks with several text encoders, and with joint attention: the same pictures from their graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcs_core import export, fit, load_recipe, open_backbone
from pcs_core.errors import CapabilityError


@pytest.mark.rotated
@pytest.mark.parametrize("id", ["tiny-sdxl", "tiny-sd3"])
def test_two_loras(id: str, tmp_path: Path, subject, trajectory, apart) -> None:
    backbone = open_backbone(id)
    settings = ["weights.lora.rank=2", "tune.steps=2", "tune.lr=1e-2"]
    recipe = load_recipe("lora-dreambooth", backbone=id, overrides=settings)
    artifacts = [fit(recipe, subject(s), backbone, seed=s)[0] for s in (1, 2)]
    with pytest.raises(CapabilityError, match="its graphs take one size"):
        export(recipe, tmp_path / "refused", to="onnx", backbone=backbone, size="dynamic")
    export(recipe, tmp_path / "out", to="onnx", backbone=backbone)
    deployed = open_backbone(tmp_path / "out")
    drawn = [trajectory(artifact, deployed) for artifact in artifacts]
    for artifact, actual in zip(artifacts, drawn, strict=True):
        assert apart(actual, trajectory(artifact, backbone)) <= 1e-5
    assert apart(drawn[0], drawn[1]) > 1e-3
    prompt = "a red dog!"  # "!" pads one of the encoders
    assert apart(trajectory(None, deployed, prompt), trajectory(None, backbone, prompt)) <= 1e-5
