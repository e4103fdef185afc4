"""A backbone holds one attachment at a time: an inner one suspends the outer one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core.backbone import Attachment, Backbone, suspended
from pcs_core.catalogue import catalogue
from pcs_core.data import Fusion, InjectEdit
from pcs_testing import (
    Snapshot,
    build_fusion,
    evaluate,
    evaluate_attached,
    make_recipe,
    make_subject,
    perturb,
)

PROMPTS = ("a photo of a dog", "a red toy on the beach")


def fusion_of(backbone: Backbone, id: str, **settings: Any) -> Fusion:
    technique = catalogue().get("techniques", id).from_settings(settings)
    fusion = build_fusion(make_recipe([technique]), [make_subject()], backbone)
    perturb(fusion, seed=len(id))
    return fusion


@pytest.mark.parametrize("outer", ["weights.lora", "weights.kv", "weights.full", "weights.peft"])
@pytest.mark.parametrize("inner", ["weights.lora", "weights.full", "weights.peft"])
def test_the_inner_run_sees_the_bare_network(backbone: Backbone, outer: str, inner: str) -> None:
    before = Snapshot(backbone)
    plain = evaluate(backbone, prompts=PROMPTS)
    alone = evaluate(backbone, fusion_of(backbone, inner), PROMPTS)
    with torch.no_grad(), Attachment(backbone, fusion_of(backbone, outer)) as net:
        tuned = evaluate_attached(net, PROMPTS).output
        assert torch.equal(evaluate(backbone, prompts=PROMPTS), plain)
        with suspended(backbone):
            before.assert_unchanged()
            nested = evaluate(backbone, fusion_of(backbone, inner), PROMPTS)
        assert torch.equal(nested, alone)
        assert torch.equal(evaluate_attached(net, PROMPTS).output, tuned)
    assert not torch.equal(tuned, plain)
    before.assert_unchanged()


def test_what_trains_and_checkpointing_survive_a_suspension(backbone: Backbone) -> None:
    fusion = fusion_of(backbone, "weights.peft", sites="*.to_v")
    values = list(fusion.of(InjectEdit)[0].owned().values())
    with Attachment(backbone, fusion, fitting=True) as net:
        net.use_checkpointing()
        values[0].requires_grad_(False)
        with suspended(backbone):
            assert not backbone.parts["denoiser"].training
        assert not values[0].requires_grad
        assert values[1].requires_grad
        assert backbone.parts["denoiser"].training


def test_an_error_inside_gives_the_outer_one_back(backbone: Backbone) -> None:
    with torch.no_grad(), Attachment(backbone, fusion_of(backbone, "weights.kv")) as net:
        tuned = evaluate_attached(net, PROMPTS).output
        with pytest.raises(KeyboardInterrupt), Attachment(backbone, Fusion()):
            raise KeyboardInterrupt
        assert torch.equal(evaluate_attached(net, PROMPTS).output, tuned)
