"""A ``call`` edit wraps whole modules too: attention, and blocks, which are called by names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import open_backbone
from pcs_core.backbone import Attachment, select_sites
from pcs_core.data import Fusion, WeightEdit
from pcs_core.merge import merge_fusions
from pcs_testing import evaluate, evaluate_attached

PROMPTS = ("a photo of a dog", "a red toy on the beach")


class Remembering(WeightEdit):
    """Runs the module once, and says the same again from then on."""

    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self.runs = 0
        self.said: Any = None
        self.seen: Any = None

    def call(self, layer: Any, x: Any, cond: Any) -> Any:
        self.seen = x
        if self.said is None:
            self.said, self.runs = layer(x), self.runs + 1
        return self.said


@pytest.mark.parametrize("kind", ["cross", "block"])
def test_a_module_is_wrapped_with_all_its_arguments(kind: str) -> None:
    backbone = open_backbone("tiny")
    sites = select_sites(backbone.sites, "*", kind=kind)
    assert sites
    plain = evaluate(backbone, prompts=PROMPTS)
    edits = tuple(Remembering(site) for site in sites)
    fusion = merge_fusions([("kept", Fusion(edits=edits))])
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        first = evaluate_attached(net, PROMPTS).output
        again = evaluate_attached(net, PROMPTS, time=900).output
    assert torch.equal(first, plain)
    assert [e.runs for e in edits] == [1] * len(edits)
    assert all(isinstance(e.seen, torch.Tensor) for e in edits)
    if kind == "block":  # the time reaches nothing that is not in a block
        assert torch.equal(again, first)
    assert torch.equal(evaluate(backbone, prompts=PROMPTS), plain)


def test_blocks_stand_in_the_order_of_the_forward() -> None:
    backbone = open_backbone("tiny")
    blocks = [(s.name, s.scale) for s in select_sites(backbone.sites, "*", kind="block")]
    assert blocks == [
        ("down_blocks.0", 1),
        ("down_blocks.1", 2),
        ("mid_block", 2),
        ("up_blocks.0", 2),
        ("up_blocks.1", 1),
    ]
