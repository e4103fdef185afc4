"""Gradient checkpointing: each recompute runs under the context of its own forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_core.backbone import Attachment, Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Fusion
from pcs_testing import (
    Snapshot,
    build_fusion,
    evaluate_attached,
    make_recipe,
    make_subject,
    perturb,
)

KINDS: dict[str, dict[str, Any]] = {
    "weights.lora": {"sites": "*", "kind": "*", "rank": 2},
    "weights.kv": {"sites": "attention"},
    "weights.full": {},
    "weights.peft": {"kind": "lokr", "sites": "*.to_v"},
}


def fusion_of(backbone: Backbone, id: str) -> Fusion:
    technique = catalogue().get("techniques", id).from_settings(KINDS[id])
    names = ("a", "b") if technique.stacks_subjects else ("a",)
    subjects = [make_subject(n, token=f"<{n}>") for n in names]
    fusion = build_fusion(make_recipe([technique]), subjects, backbone)
    perturb(fusion)
    return fusion


def gradients(backbone: Backbone, id: str, *, checkpointed: bool, base: bool) -> dict[str, Tensor]:
    """Two evaluations under different conditionings, times and models, then one backward."""
    fusion = fusion_of(backbone, id)
    rows = [0, 1] if fusion.edits[0].stacked else [0, 0]
    params = {f"{e.owner}/{e.name}/{k}": p for e in fusion.edits for k, p in e.owned().items()}
    with Attachment(backbone, fusion, fitting=True) as net:
        if checkpointed:
            net.use_checkpointing()
        first = evaluate_attached(net, ["a red dog", "a blue car"], rows, time=100).output
        latents = first if base else None  # a gradient that passes through the base network
        model = "base" if base else "self"
        second = evaluate_attached(
            net, ["snow", "a cat on grass"], rows[::-1], latents=latents, time=800, model=model
        ).output
        (first.square().mean() + (second * torch.linspace(0, 1, 16)).mean()).backward()
    return {n: p.grad for n, p in params.items() if p.grad is not None}


@pytest.mark.parametrize("base", [False, True], ids=["self", "through-base"])
@pytest.mark.parametrize("id", KINDS)
def test_two_evaluations_before_one_backward(backbone: Backbone, id: str, base: bool) -> None:
    before = Snapshot(backbone)
    plain = gradients(backbone, id, checkpointed=False, base=base)
    recomputed = gradients(backbone, id, checkpointed=True, base=base)
    assert set(plain) == set(recomputed)
    assert plain
    for name, grad in plain.items():
        scale = grad.abs().max()
        assert (recomputed[name] - grad).abs().max() <= 1e-5 * scale + 1e-9, name
    unet = backbone.parts["denoiser"]
    assert not unet.training
    assert not any(getattr(m, "gradient_checkpointing", False) for m in unet.modules())
    for part, tensors in before.tensors.items():
        for name, tensor in backbone.parts[part].state_dict().items():
            assert torch.equal(tensor, tensors[name])


def test_the_recompute_really_happens(backbone: Backbone) -> None:
    calls = 0
    unet: Any = backbone.parts["denoiser"]
    site = "mid_block.resnets.1"

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = unet.get_submodule(site).register_forward_pre_hook(count)
    gradients(backbone, "weights.kv", checkpointed=False, base=False)
    once, calls = calls, 0
    gradients(backbone, "weights.kv", checkpointed=True, base=False)
    handle.remove()
    assert calls > once
