"""A denoiser in INT8 is another deployment: near the original, and as alive as it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

from pcs_cli.main import main
from pcs_core import export, fit, load_recipe, open_backbone, sample, save
from pcs_core.backbone import Backbone
from pcs_core.data import Personalization
from pcs_core.errors import ArtifactError, InputError
from pcs_onnx.int8 import layers, quantize, recording

pytestmark = pytest.mark.rotated(3, "file")

PROMPT = "a photo of <one> on the beach"
SETTINGS = ["weights.lora.rank=2", "weights.lora.sites=*.to_v"]


@pytest.fixture(scope="module")
def artifacts(backbone: Backbone, subject) -> list[Personalization]:
    settings = [*SETTINGS, "tune.steps=4", "tune.lr=3e-1", "sample.steps=4"]
    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=settings)
    return [fit(recipe, subject(seed), backbone, seed=seed)[0] for seed in (1, 2)]


@pytest.fixture(scope="module")
def folder(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=SETTINGS)
    out = tmp_path_factory.mktemp("onnx") / "deployment"
    export(recipe, out, to="onnx", backbone=backbone)
    return out


@pytest.fixture(scope="module")
def small(folder: Path, artifacts: list[Personalization], tmp_path_factory) -> Path:
    """The same in INT8, by the command."""
    root = tmp_path_factory.mktemp("int8")
    save(artifacts[0], root / "artifact")
    words = ["quantize", str(folder), "--artifact", str(root / "artifact"), "--prompt", PROMPT]
    assert main([*words, "--steps", "12", "--out", str(root / "deployment")]) == 0
    return root / "deployment"


def test_the_command_says_what_it_did(small: Path, folder: Path) -> None:
    facts = json.loads((small / "manifest.json").read_text("utf-8"))
    written = {p.name for p in small.iterdir()} - {"manifest.json", ".pcs-files.json"}
    assert set(facts["files"]) == written
    graph = facts["graphs"]["denoiser"]
    chosen, left = layers(folder / "denoiser.onnx")
    assert graph["quantization"]["layers"] == len(chosen) > 20
    assert graph["quantization"]["left"] == len(left) > 2
    assert 0 < graph["quantization"]["rms_error"] < 0.2
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(str(small / "denoiser.onnx")).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims
    ]
    widest = [int(abs(w.astype(int)).max()) for w in weights if w.ndim > 1]
    assert len(widest) == len(chosen)
    assert max(widest) <= 64, "two products overflow 16 bits on CPUs without VNNI"
    assert graph["inputs"] == json.loads((folder / "manifest.json").read_text())["graphs"][
        "denoiser"]["inputs"]  # fmt: skip


def test_weights_are_8_bit_and_what_an_artifact_brings_is_not(small: Path) -> None:
    nodes = onnx.load(str(small / "denoiser.onnx"), load_external_data=False).graph
    kinds = {t.name: t.data_type for t in nodes.initializer}
    dequantized = [n for n in nodes.node if n.op_type == "DequantizeLinear" and n.input[0] in kinds]
    assert sum(kinds[n.input[0]] == onnx.TensorProto.INT8 for n in dequantized) > 20
    fed = {i.name for i in nodes.input}
    assert not [n for n in nodes.node if n.op_type == "QuantizeLinear" and n.input[0] in fed
                and "lora" in n.input[0]]  # fmt: skip


def test_pictures_are_near_and_alive(small: Path, folder: Path, artifacts) -> None:
    (one, other), (small_one, small_other) = (
        [
            sample(artifact, open_backbone(f), PROMPT, count=2, seed=5, scale=1.5)
            for artifact in artifacts
        ]
        for f in (folder, small)
    )
    for want, have in ((one, small_one), (other, small_other)):
        assert 0 < float((want - have).square().mean()) < 1e-3  # 30 dB
    # what tells the subjects apart is the same, under the noise of rounding (0 if they had no effect)
    apart, small_apart = (one - other).flatten(), (small_one - small_other).flatten()
    assert float(torch.cosine_similarity(apart, small_apart, dim=0)) > 0.3


def test_the_session_is_put_back(folder: Path) -> None:
    deployed = open_backbone(folder)
    session = deployed.graphs["denoiser"].session  # type: ignore[attr-defined]
    with recording(deployed, every=2) as feeds:  # type: ignore[arg-type]
        sample(None, deployed, "a dog", steps=4)
    assert len(feeds) == 2
    assert set(feeds[0]) == set(session.names)
    assert not torch.equal(*(torch.from_numpy(f[session.names[0]]) for f in feeds))
    assert deployed.graphs["denoiser"].session is session  # type: ignore[attr-defined]


def test_too_few_calls_and_twice_are_refused(small: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 calls of the denoiser were recorded, 4 at least"):
        quantize(folder, tmp_path / "out", [{}] * 3)
    with pytest.raises(ArtifactError, match="not in float32"):
        quantize(small, tmp_path / "out", [{}] * 8)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_deployment(tmp_path: Path, capsys) -> None:
    words = ["quantize", str(tmp_path), "--prompt", "a dog", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "is no deployment" in capsys.readouterr().err
