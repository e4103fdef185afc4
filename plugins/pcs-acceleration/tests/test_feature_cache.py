"""Between full steps only the shallow blocks run, and what adapters do there still shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_acceleration.feature_cache import FeatureCache
from pcs_acceleration.guidance_interval import GuidanceInterval
from pcs_core import open_backbone
from pcs_core.backbone import Attachment
from pcs_core.data import HeadEdit
from pcs_core.errors import CapabilityError
from pcs_testing import build_fusion, evaluate_attached, make_recipe, make_subject, perturb
from pcs_testing.probe import Probe

PROMPT = ("a photo of <fido>",)


def test_every_third_step_is_a_full_one(draw: Any, asked: Any) -> None:
    plain = draw(steps=7)
    full = asked.flops[0]
    cached = draw(FeatureCache(every=3), steps=7)
    assert asked.rows == [2] * 7
    deep = [f < 0.9 * full for f in asked.flops]
    assert deep == [False, True, True, False, True, True, False]
    assert (cached - plain).abs().max() > 1e-5
    # adjacent steps say nearly the same, so pictures stay near: farther apart, less so
    apart = draw(FeatureCache(every=7), steps=7)
    assert (cached - plain).abs().mean() < (apart - plain).abs().mean()


def test_one_is_the_plain_run(draw: Any) -> None:
    assert torch.equal(draw(FeatureCache(every=1)), draw())


def test_it_acts_in_a_part_of_the_sampling(draw: Any, asked: Any) -> None:
    draw(FeatureCache(every=8, start=0.25, stop=0.75), steps=8)
    full = asked.flops[0]
    assert [f == full for f in asked.flops] == [True, True, *[False] * 4, True, True]


def test_other_branches_make_a_full_step(draw: Any, asked: Any) -> None:
    draw(GuidanceInterval(low=0.0, high=None, stop=0.5), FeatureCache(every=8), steps=8)
    assert asked.rows == [2] * 4 + [1] * 4
    full = asked.flops[0]
    # the first step without the negative branch is full: what was kept is of other rows
    assert asked.flops[4] == pytest.approx(full / 2)
    assert all(f < 0.9 * asked.flops[4] for f in asked.flops[5:])


@pytest.mark.parametrize("sites", ["down_blocks.0*", "up_blocks.1*"])
def test_adapters_of_shallow_blocks_are_alive_in_cached_steps(sites: str) -> None:
    backbone = open_backbone("tiny")
    recipe = make_recipe([Probe(sites=f"*{sites}attn2"), FeatureCache()])
    fusion = build_fusion(recipe, [make_subject()], backbone)
    (head,) = fusion.of(HeadEdit)
    memory: Any = head.memory  # type: ignore[attr-defined]
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        memory.begin("record")
        fresh = evaluate_attached(net, PROMPT).output
        memory.begin("reuse")
        again = evaluate_attached(net, PROMPT).output
        perturb(fusion, scale=1.0)
        memory.begin("reuse")
        moved = evaluate_attached(net, PROMPT).output
        other = evaluate_attached(net, ("a red toy",)).output
    assert torch.equal(again, fresh)
    assert (moved - again).abs().max() > 1e-3
    assert (other - moved).abs().max() > 1e-4  # and so is the prompt


def test_a_changed_subject_changes_the_picture(draw: Any) -> None:
    cache = FeatureCache(every=3)
    assert (draw(cache, learned=0.3) - draw(cache, learned=0.9)).abs().max() > 1e-3


def test_nothing_is_kept_from_one_picture_to_the_next(draw: Any) -> None:
    cache = FeatureCache(every=2)
    assert torch.equal(draw(cache), draw(cache))


def test_a_backbone_without_blocks_is_refused(draw: Any) -> None:
    with pytest.raises(CapabilityError, match="names no blocks at a grid 64 times coarser"):
        draw(FeatureCache(scale=64))
    tokens = open_backbone("tiny-tokens")
    with pytest.raises(CapabilityError, match="names no blocks"):
        build_fusion(make_recipe([FeatureCache()]), [make_subject()], tokens)
