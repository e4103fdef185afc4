"""Attention maps on the tape: values, gradients, and what checkpointing does to them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pcs_core.backbone import Attachment, Backbone, select_sites
from pcs_core.data import AttnEdit, AttnState, Conditioning, Fusion, Site
from pcs_testing import evaluate, evaluate_attached

PROMPTS = ("a photo of a dog", "a red toy on the beach")


class Keys(AttnEdit):
    """Scales the keys by a trained factor."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.factor = nn.Parameter(torch.ones(()))

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        state.k = state.k * self.factor
        return state


def cross(backbone: Backbone) -> tuple[Site, ...]:
    return select_sites(backbone.sites, "cross")


def test_maps_are_recorded_by_kind_and_by_glob(backbone: Backbone) -> None:
    with torch.no_grad(), Attachment(backbone, Fusion()) as net:
        tape = evaluate_attached(net, PROMPTS, record=("cross",)).tape
        one = evaluate_attached(net, PROMPTS, record=("mid_block*attn1",)).tape
        none = evaluate_attached(net, PROMPTS).tape
    assert set(tape) == {s.name for s in cross(backbone)}
    assert list(one) == ["mid_block.attentions.0.transformer_blocks.0.attn1"]
    assert not none
    for site in cross(backbone):
        probs = tape[site.name]
        assert probs.shape == (2, site.heads, (16 // site.scale) ** 2, 24)
        torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:-1]))


def test_recording_does_not_change_the_output(backbone: Backbone) -> None:
    recorded = evaluate(backbone, record=("attention", "self", "cross"))
    assert (recorded - evaluate(backbone)).abs().max() < 2e-6


def test_a_fresh_tape_per_evaluation(backbone: Backbone) -> None:
    with torch.no_grad(), Attachment(backbone, Fusion()) as net:
        first = evaluate_attached(net, PROMPTS, record=("cross",)).tape
        kept = {k: v.clone() for k, v in first.items()}
        second = evaluate_attached(net, PROMPTS, time=900, record=("cross",)).tape
    assert first is not second
    assert all(torch.equal(first[k], kept[k]) for k in kept)


@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
def test_gradients_reach_every_site_through_the_tape(
    backbone: Backbone, checkpointed: bool
) -> None:
    def grads(checkpointing: bool) -> tuple[list[torch.Tensor], list[str], list[str]]:
        edits = tuple(Keys(s) for s in cross(backbone))
        with Attachment(backbone, Fusion(edits=edits), fitting=True) as net:
            if checkpointing:
                net.use_checkpointing()
            tape = evaluate_attached(net, PROMPTS, record=("cross",)).tape
            before = list(tape)
            # each map on its own, so that no gradient can come around through the features
            torch.stack([p.square().mean() for p in tape.values()]).sum().backward()
            after = list(tape)
        return [e.factor.grad for e in edits if e.factor.grad is not None], before, after

    got, before, after = grads(checkpointed)
    assert len(got) == len(cross(backbone))
    assert all(g.abs() > 0 for g in got)
    # a recompute writes the same entries again: maps are assigned, never appended
    assert before == after
    assert len(before) == len(cross(backbone))
    reference, _, _ = grads(False)
    for ours, theirs in zip(got, reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)


def test_the_gradient_is_the_derivative(backbone: Backbone) -> None:
    edit = Keys(cross(backbone)[0])

    def value(factor: float) -> torch.Tensor:
        with torch.no_grad():
            edit.factor.fill_(factor)
        with Attachment(backbone, Fusion(edits=(edit,))) as net:
            tape = evaluate_attached(net, PROMPTS, record=(edit.site.name,)).tape
            return tape[edit.site.name].double().square().mean()

    value(1.0).backward()
    assert edit.factor.grad is not None
    with torch.no_grad():
        slope = (value(1.05) - value(0.95)) / 0.1
    assert edit.factor.grad.item() == pytest.approx(slope.item(), rel=0.02)
