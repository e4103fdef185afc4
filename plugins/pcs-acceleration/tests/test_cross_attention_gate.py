"""After the gate cross-attention runs no more; what it said there, adapters included, stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_acceleration.cross_attention_gate import CrossAttentionGate, KeptAttention
from pcs_acceleration.memory import Memory
from pcs_core import Technique, hookimpl, open_backbone
from pcs_core.data import Fusion
from pcs_core.errors import CapabilityError
from pcs_testing.probe import OutputScale


def test_the_network_is_asked_less(draw: Any, asked: Any) -> None:
    plain = draw()
    full = asked.flops[0]
    gated = draw(CrossAttentionGate(gate=0.5))
    assert asked.rows == [2, 2, 2, 2, 1, 1]
    assert asked.flops[:4] == [full] * 4
    after = set(asked.flops[4:])
    assert len(after) == 1
    # half the rows, and no cross-attention in them
    assert after.pop() < 0.5 * full
    assert (gated - plain).abs().max() > 1e-4


def test_without_guidance_a_gate_at_a_constant_text_changes_little(draw: Any, asked: Any) -> None:
    plain = draw(scale=1.0, steps=20)
    gated = draw(CrossAttentionGate(gate=0.8), scale=1.0, steps=20)
    early = draw(CrossAttentionGate(gate=0.1), scale=1.0, steps=20)
    assert asked.rows == [1] * 20
    assert (gated - plain).abs().mean() < (early - plain).abs().mean()


def test_a_gate_at_the_end_is_the_plain_run(draw: Any) -> None:
    assert torch.equal(draw(CrossAttentionGate(gate=1.0)), draw())


@pytest.mark.parametrize("gate", [0.0, 0.5])
def test_the_subject_stays_alive(draw: Any, gate: float) -> None:
    one, other = (draw(CrossAttentionGate(gate=gate), learned=x) for x in (0.3, 0.9))
    assert (one - other).abs().max() > 1e-3


class Late(Technique):
    """An adapter that acts from the middle on, after the gate."""

    id = "test.late"
    size: float = 0.0
    """How much of the attention's output it adds."""

    @hookimpl
    def fuse(self, run: Any, features: Any) -> Fusion:
        edits = tuple(OutputScale(site, features.subjects) for site in run.sites("cross"))
        for edit in edits:
            edit.start = 0.5
            torch.nn.init.constant_(edit.scale, self.size)
            edit.scale.requires_grad_(False)
        return Fusion(edits=edits)


def test_an_adapter_that_begins_after_the_gate_is_not_lost(draw: Any, asked: Any) -> None:
    one = draw(Late(size=0.0), CrossAttentionGate(gate=0.2), steps=8)
    gated = asked.flops[:]
    other = draw(Late(size=2.0), CrossAttentionGate(gate=0.2), steps=8)
    assert (one - other).abs().max() > 1e-3
    # asked again once, when the adapter begins
    assert gated[4] > gated[3] == gated[5]


def test_the_mean_of_the_branches_is_kept() -> None:
    site = next(s for s in open_backbone("tiny").sites if s.kind == "cross")
    edit = KeptAttention(site, Memory())
    kept = torch.arange(4.0).view(4, 1, 1)
    assert edit.fit(kept, 2).flatten().tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    assert torch.equal(edit.fit(kept, 4), kept)  # type: ignore[arg-type]
    assert edit.fit(kept, 3) is None


def test_what_it_cannot_tell_apart_is_refused(draw: Any) -> None:
    from pcs_core.data import Branch, GuidanceTerm

    class Own(Technique):
        id = "test.own"

        @hookimpl
        def fuse(self) -> Fusion:
            return Fusion(guidance=(GuidanceTerm(Branch(edits="x*"), Branch(model="base"), 2.0),))

    with pytest.raises(CapabilityError, match=r"edits 'x\*' alone"):
        draw(Own(), CrossAttentionGate(gate=0.5))
    with pytest.raises(CapabilityError, match="no cross-attention site matches 'nowhere'"):
        draw(CrossAttentionGate(sites="nowhere"))
