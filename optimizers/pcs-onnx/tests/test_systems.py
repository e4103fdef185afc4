"""Every exportable system: on the network and on the graphs the same, and alive in all that is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pcs_core import export, fit, load_recipe, open_backbone, pretrain, save
from pcs_core.backbone import Backbone
from pcs_core.data import Layout

ADAPTER = "attention.parallel_adapter"
SETTINGS = {
    "lora-dreambooth": ["tune.steps=2", "tune.lr=1e-2"],
    "ip-adapter": ["encoders.image.model=tiny.image", "adapter.lr=1e-2"],
    "fastcomposer": [
        "encoders.image.model=tiny.image",
        "encoders.image.slots=1",
        # a step of AdamW moves each weight by its rate: the words' network far, the denoiser hardly
        'compose.lr={"fusion.token_output/*" = 1e-1, "weights.full/*" = 1e-4}',
    ],
    "instantid": [
        "encoders.face.model=tiny.face",
        # two such steps of a perceiver 1280 wide, and every face would give the same tokens
        'identity.lr={"attention.parallel_adapter/*" = 1e-4, "fusion.control_branch/*" = 1e-2}',
    ],
}
SMALL = {
    "ip-adapter": ["adapter.steps=2", "adapter.batch=2"],
    "fastcomposer": ["fusion.token_output.hidden=16", "compose.steps=2", "compose.batch=2"],
    "instantid": [
        *(f"{ADAPTER}.heads=4", f"{ADAPTER}.depth=1", "fusion.control_branch.width=0.5"),
        *("identity.steps=2", "identity.batch=2"),
    ],
}
STRENGTHS = {
    "ip-adapter": ("image.scale",),
    "fastcomposer": ("image.words",),
    "instantid": ("face.scale", "control.scale"),
}
POINTS = Layout(points=((0.35, 0.4), (0.65, 0.4), (0.5, 0.55), (0.4, 0.7), (0.6, 0.7)))
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("system", sorted(SETTINGS))
def test_the_same_and_alive(
    system: str, dtype: str, tmp_path: Path, subject, records, trajectory, apart
) -> None:
    backbone: Backbone = open_backbone("tiny")
    settings = [*SETTINGS[system], *SMALL.get(system, ())]
    recipe = load_recipe(system, backbone="tiny", overrides=settings)
    adapter = None
    if system in STRENGTHS:
        adapter = tmp_path / "adapter"
        save(pretrain(recipe, records(), backbone), adapter)
    artifacts = [fit(recipe, subject(s), backbone, adapter=adapter, seed=s)[0] for s in (1, 2)]
    out = tmp_path / "deployment"
    export(recipe, out, to="onnx", backbone=backbone, adapter=adapter, size="dynamic", dtype=dtype)
    deployed = open_backbone(out)
    layout = {"layout": POINTS} if system == "instantid" else {}
    usual = [{name: value} for name in STRENGTHS.get(system, ()) for value in (0.5, 1.0)] or [{}]
    allowed = TOLERANCES[dtype]
    for height, width in ((32, 32), (48, 40)):
        deployed.at(height, width)  # type: ignore[attr-defined]
        backbone.latent_shape = (4, height // 2, width // 2)
        backbone.card = replace(backbone.card, size=(height, width))
        drawn = []
        for artifact in artifacts:
            for strengths in usual:
                options = {**layout, "strengths": strengths}
                actual = trajectory(artifact, deployed, **options)
                assert apart(actual, trajectory(artifact, backbone, **options)) <= allowed
                drawn.append(actual)
        assert drawn[0][-1].shape[-2:] == (height, width)
        for i, one in enumerate(drawn):  # whoever is drawn, and however strongly, shows
            assert all(apart(one, other) > 1e-4 for other in drawn[i + 1 :])
