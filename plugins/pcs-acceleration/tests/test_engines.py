"""Other engines take what leaves the network as it is, and refuse by name what they cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import fit, installed, load_preset, load_recipe, open_backbone, sample
from pcs_core.data import Personalization, Phase, Preset, SampleSettings
from pcs_core.errors import CapabilityError
from pcs_testing import make_recipe, make_subject

PROMPT = "a photo of <fido>"


def added(id: str, *settings: str) -> Preset:
    return load_preset(techniques=[id], overrides=[f"{id}.{s}" for s in settings])


INTERVAL = ("acceleration.guidance_interval", "stop=0.5", "low=0.0")
CACHE = ("acceleration.feature_cache", "every=3")
GATE = ("acceleration.cross_attention_gate",)
LIGHT = ("acceleration.light_decoder",)


@pytest.fixture(scope="module")
def artifact() -> Personalization:
    catalogue = installed()
    uses = [
        catalogue.get("techniques", id).from_settings(given)
        for id, given in (("tokens.rare", {}), ("weights.lora", {"rank": 2}))
    ]
    settings = SampleSettings(steps=6, scale=3.0)
    recipe = make_recipe(uses, Phase("p", 2, lr={"*": 0.05}), sample=settings)
    return fit(recipe, make_subject(), open_backbone("tiny"))[0]


@pytest.fixture(scope="module")
def engine() -> Any:
    if "compile" not in installed().ids("engines"):
        pytest.skip("pcs-compile is not installed")
    from pcs_core import open_engine

    return open_engine(open_backbone("tiny"), "compile", backend="aot_eager")


@pytest.mark.rotated
def test_compiled_networks_take_all_but_the_gate(engine: Any, artifact: Personalization) -> None:
    plain = open_backbone("tiny")

    def both(preset: Preset) -> tuple[torch.Tensor, torch.Tensor]:
        draws = [sample(artifact, on, PROMPT, seed=1, preset=preset) for on in (plain, engine)]
        return draws[0], draws[1]

    both(added(*INTERVAL))  # with the negative branch and without: both shapes are compiled
    before = engine.engine["compiled"]
    for names in (INTERVAL, CACHE, LIGHT):
        one, other = both(added(*names))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert engine.engine["compiled"] == before
    with pytest.raises(CapabilityError, match="'acceleration.cross_attention_gate' keeps what"):
        both(added(*GATE))


@pytest.mark.slow
def test_an_exported_graph_takes_fewer_evaluations_and_no_memory(
    artifact: Personalization, tmp_path: Path
) -> None:
    if "onnx" not in installed().ids("exporters"):
        pytest.skip("pcs-onnx is not installed")
    from pcs_cli.main import main

    out, deployed = tmp_path / "deployment", ["weights.lora.rank=2", "tune.steps=2"]
    words = ["export", "lora-dreambooth", "--to", "onnx", "--backbone", "tiny", "--out", str(out)]
    assert main([*words, "--set", "weights.lora.rank=2"]) == 0
    recipe = load_recipe(
        "lora-dreambooth", backbone="tiny", overrides=[*deployed, "sample.steps=4"]
    )
    (fitted,) = fit(recipe, make_subject(), open_backbone("tiny"))

    def drawn(on: Any, *names: str) -> torch.Tensor:
        return sample(fitted, on, PROMPT, seed=1, preset=added(*names))

    graph, plain = open_backbone(out), open_backbone("tiny")
    torch.testing.assert_close(
        drawn(graph, *INTERVAL), drawn(plain, *INTERVAL), rtol=1e-4, atol=1e-4
    )
    for names in (CACHE, GATE):
        with pytest.raises(CapabilityError, match=f"'{names[0]}' keeps what the network said"):
            drawn(graph, *names)
    with pytest.raises(CapabilityError, match="light decoder"):
        drawn(graph, *LIGHT)
