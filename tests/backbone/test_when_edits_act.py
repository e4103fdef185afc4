"""Which edits act: start and stop, mode, globs over uses, and the base network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_core.backbone import Attachment, Backbone, select_sites
from pcs_core.catalogue import catalogue
from pcs_core.data import Conditioning, Fusion, InjectEdit, WeightEdit
from pcs_core.merge import merge_fusions
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


class Double(WeightEdit):
    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        return y


def doubled(backbone: Backbone, **options: Any) -> Fusion:
    site = select_sites(backbone.sites, "mid_block*.conv1")[0]
    return merge_fusions([("double", Fusion(edits=(Double(site, **options),)))])


@pytest.mark.parametrize(
    ("progress", "acts"), [(0.0, False), (0.3, True), (0.59, True), (0.6, False), (1.0, False)]
)
def test_start_and_stop_bound_the_part_of_the_sampling(
    backbone: Backbone, progress: float, acts: bool
) -> None:
    fusion = doubled(backbone, start=0.3, stop=0.6)
    moved = not torch.equal(evaluate(backbone, fusion, progress=progress), evaluate(backbone))
    assert moved is acts


def test_an_edit_to_the_end_acts_at_the_end(backbone: Backbone) -> None:
    fusion = doubled(backbone, start=0.5)
    assert not torch.equal(evaluate(backbone, fusion, progress=1.0), evaluate(backbone))


def test_start_and_stop_do_not_keep_an_edit_from_training(backbone: Backbone) -> None:
    with torch.no_grad(), Attachment(backbone, doubled(backbone, start=0.9), fitting=True) as net:
        moved = evaluate_attached(net, PROMPTS).output
    assert not torch.equal(moved, evaluate(backbone))


@pytest.mark.parametrize(
    ("mode", "in_fit", "in_sample"), [("fit", 1, 0), ("sample", 0, 1), ("both", 1, 1)]
)
def test_mode(backbone: Backbone, mode: str, in_fit: int, in_sample: int) -> None:
    plain = evaluate(backbone)
    for fitting, expected in ((True, in_fit), (False, in_sample)):
        with (
            torch.no_grad(),
            Attachment(backbone, doubled(backbone, mode=mode), fitting=fitting) as net,
        ):
            assert (not torch.equal(evaluate_attached(net, PROMPTS).output, plain)) == bool(
                expected
            )


KINDS: dict[str, dict[str, Any]] = {
    "tokens.learnable": {},
    "weights.lora": {},
    "weights.kv": {},
    "weights.full": {"parts": ["denoiser", "text"]},
    "weights.peft": {"kind": "lora", "sites": "*.to_v"},
}


def of_kinds(backbone: Backbone, *ids: str) -> Fusion:
    known = catalogue()
    uses = [known.get("techniques", i).from_settings(KINDS[i]) for i in ids]
    fusion = build_fusion(make_recipe(uses), [make_subject()], backbone)
    perturb(fusion)
    return fusion


@pytest.mark.parametrize("id", KINDS)
def test_the_base_is_exact_with_every_kind_attached(backbone: Backbone, id: str) -> None:
    prompts = ("a photo of <fido> on the beach",)
    before = Snapshot(backbone)
    # without a token of its own, "<fido>" is just a strange word; with one, the base sees its host
    base_prompts = ("a photo of dog on the beach",) if id == "tokens.learnable" else prompts
    plain = evaluate(backbone, prompts=base_prompts)
    with torch.no_grad(), Attachment(backbone, of_kinds(backbone, id)) as net:
        tuned = evaluate_attached(net, prompts).output
        base = evaluate_attached(net, prompts, model="base").output
        again = evaluate_attached(net, prompts).output
    assert torch.equal(base, plain)
    assert torch.equal(tuned, again)
    assert (tuned - base).abs().max() > 1e-4
    before.assert_unchanged()


@pytest.mark.parametrize("id", KINDS)
def test_a_glob_that_leaves_a_use_out_gives_the_base(backbone: Backbone, id: str) -> None:
    prompts = ("a photo of a dog on the beach",)
    if id == "tokens.learnable":
        pytest.skip("acts on prompts with its token only")
    with torch.no_grad(), Attachment(backbone, of_kinds(backbone, id)) as net:
        out = evaluate_attached(net, prompts, edits="none.*").output
        acting = evaluate_attached(net, prompts, edits=id.split(".", 1)[0] + ".*").output
        everything = evaluate_attached(net, prompts).output
    # the text was encoded with the edits: compare against a base whose text was, too
    if id != "weights.full":
        assert torch.equal(out, evaluate(backbone, prompts=prompts))
    assert torch.equal(acting, everything)
    assert not torch.equal(out, everything)


def test_a_glob_chooses_among_uses_of_every_kind(backbone: Backbone) -> None:
    prompts = ("a photo of a dog",)
    fusion = of_kinds(backbone, "weights.lora", "weights.kv")
    alone = of_kinds(backbone, "weights.lora")
    with torch.no_grad():
        for target, source in zip(alone.of(WeightEdit), fusion.of(WeightEdit), strict=True):
            target.load_state_dict(source.state_dict())
    assert torch.equal(
        evaluate(backbone, fusion, prompts, edits="weights.lora"),
        evaluate(backbone, alone, prompts),
    )


def test_an_unknown_model_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="unknown model 'other'"):
        evaluate(backbone, model="other")


def test_the_base_keeps_what_trains_and_what_does_not(backbone: Backbone) -> None:
    fusion = of_kinds(backbone, "weights.peft")
    values = list(fusion.of(InjectEdit)[0].owned().values())
    with Attachment(backbone, fusion, fitting=True) as net:
        values[0].requires_grad_(False)
        evaluate_attached(net, PROMPTS, model="base")
        assert not values[0].requires_grad
        assert values[1].requires_grad


def test_a_base_evaluation_between_forward_and_backward_is_safe(backbone: Backbone) -> None:
    def grads(id: str, with_base: bool) -> list[Tensor]:
        fusion = of_kinds(backbone, id)
        params = [p for e in fusion.edits for p in e.owned().values()]
        with Attachment(backbone, fusion, fitting=True) as net:
            loss = evaluate_attached(net, PROMPTS).output.square().mean()
            if with_base:
                loss = loss - evaluate_attached(net, PROMPTS, model="base").output.mean().detach()
            loss.backward()
        return [p.grad for p in params if p.grad is not None]

    for id in ("weights.full", "weights.peft"):
        for ours, theirs in zip(grads(id, True), grads(id, False), strict=True):
            assert torch.equal(ours, theirs)


def test_an_edit_is_in_training_mode_in_fits_only(backbone: Backbone) -> None:
    fusion = doubled(backbone)
    for fitting in (True, False, True):
        with Attachment(backbone, fusion, fitting=fitting):
            assert fusion.of(WeightEdit)[0].training is fitting
