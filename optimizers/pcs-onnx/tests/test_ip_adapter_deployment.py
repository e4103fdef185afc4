"""Image tokens and strengths are inputs: one deployment serves every reference of an IP-Adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcs_core import export, fit, load_recipe, open_backbone, pretrain, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Personalization, Recipe
from pcs_core.errors import CapabilityError

pytestmark = pytest.mark.rotated(3, "file")

TOLERANCE = 1e-5
SETTINGS = ["encoders.image.model=tiny.image", "adapter.steps=2", "adapter.batch=2"]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("ip-adapter", overrides=[*SETTINGS, "adapter.lr=1e-2"])


@pytest.fixture(scope="module")
def adapter(recipe: Recipe, backbone: Backbone, records) -> Personalization:
    return pretrain(recipe, records(), backbone)


@pytest.fixture(scope="module")
def folder(
    recipe: Recipe,
    adapter: Personalization,
    backbone: Backbone,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Of the system, without any subject."""
    out = tmp_path_factory.mktemp("onnx") / "deployment"
    facts = export(recipe, out, to="onnx", backbone=backbone, adapter=adapter)
    denoiser = facts["graphs"]["denoiser"]
    names = [entry["name"] for entry in denoiser["inputs"]]
    sites = sum(s.kind == "cross" and s.part == "denoiser" for s in backbone.sites)
    keys = [f"key/{i}" for i in range(4 * sites)]  # of the text and of the image, keys and values
    assert names == ["latents", "time", "strength/image.scale", *keys]
    inputs = [entry["name"] for entry in facts["graphs"]["keys"]["inputs"]]
    assert inputs == ["text", "stream/image"]
    assert denoiser["neutral"]
    assert any(name.endswith("to_k/weight") for name in denoiser["baked"])
    return out


def test_two_subjects_at_two_strengths(
    recipe: Recipe, adapter: Personalization, backbone: Backbone, folder: Path,
    subject, trajectory, apart,
) -> None:  # fmt: skip
    deployed = open_backbone(folder)
    artifacts = [fit(recipe, subject(s), backbone, adapter=adapter)[0] for s in (1, 2)]
    drawn = []
    for artifact in artifacts:
        for strength in (0.5, 1.0):
            options = {"strengths": {"image.scale": strength}}
            drawn.append(trajectory(artifact, deployed, **options))
            assert apart(drawn[-1], trajectory(artifact, backbone, **options)) <= TOLERANCE
    for other in drawn[1:]:  # alive: every strength and every reference draws another picture
        assert apart(drawn[0], other) > 3 * TOLERANCE


@pytest.mark.parametrize("projector", ["linear", "resampler"])
def test_the_number_of_references_is_open(
    projector: str, backbone: Backbone, subject, trajectory, apart, records, tmp_path: Path
) -> None:
    """Their features are joined: the projector reads more of them, and a linear one gives more tokens."""
    joined = ["encoders.image.output=patches", "encoders.image.several=join"]
    shape = [
        f"attention.parallel_adapter.projector={projector}",
        "attention.parallel_adapter.heads=4",
    ]
    recipe = load_recipe("ip-adapter", overrides=[*SETTINGS, *joined, *shape, "adapter.lr=1e-2"])
    adapter = pretrain(recipe, records(), backbone)
    export(recipe, tmp_path / "out", to="onnx", backbone=backbone, adapter=adapter)
    deployed = open_backbone(tmp_path / "out")
    drawn = []
    for count in (1, 3):
        (artifact,) = fit(recipe, subject(4, count), deployed, adapter=adapter)
        drawn.append(trajectory(artifact, deployed))
        (expected,) = fit(recipe, subject(4, count), backbone, adapter=adapter)
        assert apart(drawn[-1], trajectory(expected, backbone)) <= 2 * TOLERANCE
    assert apart(*drawn) > 3 * TOLERANCE


def test_another_adapter_is_refused(
    recipe: Recipe, backbone: Backbone, folder: Path, subject, records
) -> None:
    other = pretrain(recipe, records(7), backbone)
    (artifact,) = fit(recipe, subject(1), backbone, adapter=other)
    with pytest.raises(CapabilityError, match="other pre-trained weights"):
        sample(artifact, open_backbone(folder), "a photo of <one>", steps=1)


def test_a_new_reference_is_encoded_by_the_deployment(
    recipe: Recipe, adapter: Personalization, backbone: Backbone, folder: Path, subject, trajectory,
    apart, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (expected,) = fit(recipe, subject(3), backbone, adapter=adapter)
    monkeypatch.setattr("pcs_diffusers.vision.ClipVision.pooled", None)  # the graph alone
    deployed = open_backbone(folder)
    (artifact,) = fit(recipe, subject(3), deployed)
    gap = (artifact.features["image"] - expected.features["image"]).abs().max()
    assert float(gap) <= TOLERANCE * float(expected.features["image"].abs().max())
    assert apart(trajectory(artifact, deployed), trajectory(expected, backbone)) <= 2 * TOLERANCE
    calls = {name: graph.session.calls for name, graph in deployed.graphs.items()}  # type: ignore[attr-defined]
    assert calls["encoder/tiny.image/pooled"] == calls["keys"] == 1 < calls["denoiser"] == 3
    assert calls["stream/image"] == 2  # with the reference, and without: guidance's other side
    trajectory(artifact, deployed, strengths={"image.scale": 0.5})
    again = {name: graph.session.calls for name, graph in deployed.graphs.items()}  # type: ignore[attr-defined]
    drawn = ("denoiser", "decoder")
    assert {k: v for k, v in again.items() if k not in drawn} == {
        k: v for k, v in calls.items() if k not in drawn
    }
