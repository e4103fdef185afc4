"""On every path the picture changes with the subject, the strength of its adapter, and its LoRA."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import fit, installed, load_preset, open_backbone, sample
from pcs_core.data import HeadEdit, Personalization, Phase, SampleSettings
from pcs_testing import make_recipe, make_subject

PATHS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "acceleration.guidance_interval": ("stop=0.5", "low=0.0"),
    "acceleration.cross_attention_gate": ("gate=0.25",),
    "acceleration.feature_cache": ("every=4",),
    "acceleration.light_decoder": (),
}
USES = {
    "tokens.rare": {},
    "encoders.image": {"model": "tiny.image"},
    "attention.parallel_adapter": {"tokens": 2},
    "weights.lora": {"rank": 2},
}


def artifact(seed: int) -> Personalization:
    catalogue = installed()
    uses = [catalogue.get("techniques", id).from_settings(given) for id, given in USES.items()]
    phase = Phase("p", 3, lr={"*": 0.05})
    recipe = make_recipe(uses, phase, sample=SampleSettings(steps=4, scale=3.0))
    return fit(recipe, make_subject(seed=seed), open_backbone("tiny"))[0]


@pytest.fixture(scope="module")
def artifacts() -> tuple[Personalization, Personalization]:
    return artifact(0), artifact(1)


def with_lora(one: Personalization, factor: float) -> Personalization:
    tensors = {
        name: factor * t if name.startswith("weights.lora/") and name.endswith("/B") else t
        for name, t in one.tensors.items()
    }
    return dataclasses.replace(one, tensors=tensors)


@pytest.mark.parametrize("path", PATHS)
def test_the_picture_changes(path: str, artifacts: Any) -> None:
    changes = [f"{path}.{setting}" for setting in PATHS[path]]
    techniques = [] if path == "plain" else [path]
    preset = load_preset(techniques=techniques, overrides=changes)

    def drawn(who: Personalization, **options: Any) -> torch.Tensor:
        backbone = open_backbone("tiny")
        return sample(who, backbone, "a photo of <fido>", seed=1, preset=preset, **options)

    one = drawn(artifacts[0])
    assert torch.equal(one, drawn(artifacts[0]))
    others = {
        "subject": drawn(artifacts[1]),
        "strength": drawn(artifacts[0], strengths={"image.scale": 0.0}),
        "LoRA": drawn(with_lora(artifacts[0], 3.0)),
    }
    still = [what for what, other in others.items() if (other - one).abs().max() < 1e-4]
    assert not still, f"{path}: the picture does not change with {', '.join(still)}"
    if path != "plain":
        plain = sample(artifacts[0], open_backbone("tiny"), "a photo of <fido>", seed=1)
        assert not torch.equal(plain, one)


def test_image_tokens_are_alive_in_cached_steps(artifacts: Any) -> None:
    """A subject that is exchanged after the only full step still shows, through the shallow blocks."""
    from pcs_acceleration.feature_cache import FeatureCache
    from pcs_core.backbone import Attachment, import_tensors
    from pcs_testing import evaluate_attached
    from pcs_testing.fixtures import build

    catalogue = installed()
    uses = [catalogue.get("techniques", id).from_settings(given) for id, given in USES.items()]
    backbone = open_backbone("tiny")
    fusion, features = build(make_recipe([*uses, FeatureCache()]), [make_subject()], backbone)
    import_tensors(fusion, dict(artifacts[0].tensors))
    (head,) = fusion.of(HeadEdit)
    memory: Any = head.memory  # type: ignore[attr-defined]
    other = features.__class__(
        tensors={k: -v for k, v in features.tensors.items()}, concepts=features.concepts
    )
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        memory.begin("record")
        evaluate_attached(net, ["a photo of <fido>"], features=features)
        memory.begin("reuse")
        same = evaluate_attached(net, ["a photo of <fido>"], features=features).output
        memory.begin("reuse")
        changed = evaluate_attached(net, ["a photo of <fido>"], features=other).output
    assert (same - changed).abs().max() > 1e-4


def test_the_file_of_a_preset_is_where_it_says(tmp_path: Path) -> None:
    preset = load_preset("fast")
    assert Path(preset.path).name == "fast.toml"
    assert Path(preset.path).is_file()
