"""Updates by LyCORIS' names: lycoris-lora writes the files, and its network says what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris import LycorisNetwork, create_lycoris
from safetensors.torch import load_file

from pcs_core import export
from pcs_diffusers.tiny import tiny
from pcs_engine.strengths import part_strengths
from pcs_formats.importing import import_file, inspect_file

CLOSE: Any = {"rtol": 1e-4, "atol": 1e-4}
KINDS: dict[str, dict[str, Any]] = {
    "locon": {"algo": "lora"},
    "tucker": {"algo": "lora", "use_tucker": True},
    "dora": {"algo": "lora", "weight_decompose": True},
    "dora-columns": {"algo": "lora", "weight_decompose": True, "wd_on_out": False},
    "loha": {"algo": "loha"},
    "loha-tucker": {"algo": "loha", "use_tucker": True},
    "lokr": {"algo": "lokr", "factor": 4},
    "lokr-both": {"algo": "lokr", "factor": 8, "decompose_both": True, "use_tucker": True},
    "lokr-full": {"algo": "lokr", "full_matrix": True, "weight_decompose": True},
    "oft": {"algo": "diag-oft", "constraint": 0.01, "rescaled": True},
    "full": {"algo": "full"},
}
TARGETS = ["Attention", "ResnetBlock2D", "FeedForward"]


@pytest.fixture
def prefixed() -> Iterator[None]:
    before = LycorisNetwork.LORA_PREFIX
    LycorisNetwork.apply_preset({"target_module": TARGETS, "lora_prefix": "lora_unet"})
    yield
    LycorisNetwork.apply_preset({"target_module": TARGETS, "lora_prefix": before})


def written(unet: Any, file: Path, settings: dict[str, Any]) -> Any:
    """Let LyCORIS make a network around ``unet``, move its tensors, and write them."""
    settings = {"use_norm": settings["algo"] == "full", **settings}
    network = create_lycoris(
        unet, 1.0, linear_dim=2, linear_alpha=1.0, conv_dim=2, conv_alpha=1.0, **settings
    )
    network.apply_to()
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            by = 0.02 if settings["algo"] in ("full", "diag-oft") else 0.3
            noise = by * torch.randn(parameter.shape, generator=rng)
            scaled = "dora_scale" in name or "rescale" in name
            parameter.copy_(parameter * (1 + noise) if scaled else parameter + noise)
    network.save_weights(str(file), torch.float32, {"ss_network_module": "lycoris.kohya"})
    return network


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", ["tiny", pytest.param("release", marks=pytest.mark.slow)])
def test_a_file_draws_as_the_network_that_wrote_it(
    size: str,
    kind: str,
    prefixed: None,
    opened: Any,
    evaluate_bare: Any,
    evaluate_artifact: Any,
    tmp_path: Path,
) -> None:
    backbone: Any = tiny() if size == "tiny" else opened("sd")
    plain = evaluate_artifact(None, backbone)
    bare = backbone.denoiser
    file = tmp_path / f"{kind}.safetensors"
    network = written(bare, file, KINDS[kind])
    theirs = {}
    for strength in (1.0, 0.6):
        network.set_multiplier(strength)
        theirs[strength] = evaluate_bare(backbone)
    network.restore()
    assert torch.equal(evaluate_bare(backbone), plain)
    artifact = import_file(file, backbone)
    for strength, expected in theirs.items():
        weights, _ = part_strengths({"lora": strength}, artifact.recipe.uses)
        torch.testing.assert_close(
            evaluate_artifact(artifact, backbone, weights), expected, **CLOSE
        )
        assert (expected - plain).abs().max() > 1e-2
    (name,) = export(artifact, tmp_path / "out", to="kohya", backbone=backbone)["files"]
    again, given = (load_file(path) for path in (tmp_path / "out" / name, file))
    assert again.keys() == given.keys()
    unread = ".alpha" if kind == "lokr-full" else None  # of two whole factors alpha says nothing
    assert all(torch.equal(again[k], given[k]) for k in given if k[-6:] != unread)
    (loader,) = inspect_file(file, backbone)["loaders"]
    assert loader["matched"] == loader["keys"] > 50
