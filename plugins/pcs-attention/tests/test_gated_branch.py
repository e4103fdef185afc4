"""The plain prompt's branch: what it draws, where the gate opens, and when it is there."""

from __future__ import annotations

from typing import Any

import torch

from pcs_attention.gated_branch import (
    PARTNER,
    Gated,
    GatedBranch,
    clean_of,
    moved,
    noise_of,
    shuffled,
)
from pcs_core import Technique, hookimpl, sample
from pcs_core.backbone import Attachment, Backbone
from pcs_core.data import AttnState, Conditioning, Fusion, Prediction, SampleSettings
from pcs_core.data.steps import Level
from pcs_testing import evaluate, make_recipe, make_subject
from pcs_testing.fixtures import extracted
from pcs_tokens.rare import RareToken


def state_of(backbone: Backbone, rows: int = 3) -> tuple[Gated, AttnState, Conditioning]:
    """Return a gate, and an attention whose row 0 has row 2 beside it."""
    site = next(s for s in backbone.sites if s.kind == "cross")
    rng = torch.Generator().manual_seed(0)
    places, width = 16, site.width
    maps = torch.randn(rows, site.heads, places, 8, generator=rng).softmax(-1)
    empty = torch.zeros(rows, places, width)
    state = AttnState(site, empty, empty, site.heads, empty, empty, empty)
    state.probs = maps
    state.out = torch.randn(rows, places, width, generator=rng)
    span = torch.tensor([[2, 3]] * (rows - 1) + [[4, -1]])
    cond = Conditioning(
        text=torch.zeros(rows, 8, 4),
        spans={"concept.0": span},
        extra={PARTNER: torch.tensor([2, *[-1] * (rows - 1)])},
    )
    return Gated(site, 0.5, 10.0, 500.0), state, cond


def test_the_gate_is_the_authors_formula(backbone: Backbone) -> None:
    """Written out from `src/model.py`, head by head."""
    gate, state, cond = state_of(backbone)
    assert state.probs is not None
    assert state.out is not None
    heads, before, maps = gate.site.heads, state.out.clone(), state.probs
    first = (10 * maps[0, :, :, 1:]).softmax(-1)
    second = (10 * maps[2, :, :, 1:]).softmax(-1)
    subject = first[..., 1] + first[..., 2]  # tokens 2 and 3, without the first
    plain = second.sum(-1) - second[..., 3]  # all but token 4
    both = torch.stack(
        [500 * (10 * subject).softmax(-1), 0.5 * 500 * (10 * plain).softmax(-1)]
    ).softmax(0)
    split = before.unflatten(2, (heads, -1)).transpose(1, 2)
    mixed = both[0][..., None] * split[0] + both[1][..., None] * split[2]
    after = gate.out(state, cond).out
    assert after is not None
    torch.testing.assert_close(after[0], mixed.transpose(0, 1).flatten(1), atol=1e-5, rtol=1e-4)
    assert torch.equal(after[1:], before[1:])


def test_rows_without_a_partner_keep_what_they_read(backbone: Backbone) -> None:
    gate, state, cond = state_of(backbone)
    assert state.out is not None
    before = state.out.clone()
    none = cond.with_(extra={PARTNER: torch.full((3,), -1)})
    assert torch.equal(gate.out(state, none).out, before)  # type: ignore[arg-type]
    assert torch.equal(gate.out(state, cond.with_(extra={})).out, before)  # type: ignore[arg-type]


def test_the_noise_beside_is_the_pictures_own_in_another_order() -> None:
    noise = torch.randn(2, 4, 8, 8)
    other = shuffled(noise)
    assert torch.equal(other.flatten(1).sort().values, noise.flatten(1).sort().values)
    assert float((other != noise).float().mean()) > 0.95
    assert torch.equal(shuffled(noise[1:]), other[1:])


def test_a_step_without_noise_is_that_of_ddim() -> None:
    x0, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    first, second = (
        Level(torch.full((2,), a), torch.full((2,), (1 - a * a) ** 0.5), torch.zeros(2))
        for a in (0.3, 0.6)
    )
    x = 0.3 * x0 + first.sigma[0] * noise
    torch.testing.assert_close(noise_of(x, x0, first), noise, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(clean_of(x, noise, first), x0, atol=1e-4, rtol=1e-4)
    expected = 0.6 * x0 + second.sigma[0] * noise
    torch.testing.assert_close(moved(x, noise, first, second), expected, atol=1e-4, rtol=1e-4)


ASKED: list[tuple[float, int]] = []


class Counted(Technique):
    """Counts the rows that a step asks the network about."""

    id = "test.counted"

    @hookimpl(wrapper=True, tryfirst=True)
    def sample(self, step: Any) -> Any:
        asked, wrapped = step.evaluate, step.progress

        def evaluate(x: Any, *given: Any, **more: Any) -> Any:
            ASKED.append((wrapped, len(x)))
            return asked(x, *given, **more)

        step.evaluate = evaluate
        answer: Prediction = yield
        return answer


def drawn(backbone: Backbone, prompts: str | list[str], **settings: Any) -> torch.Tensor:
    from pcs_core import fit

    uses = [RareToken(identifier="sks"), GatedBranch(**settings), Counted()]
    recipe = make_recipe(uses, sample=SampleSettings(steps=4, scale=2.0))
    (artifact,) = fit(recipe, make_subject(), backbone)
    ASKED.clear()
    return sample(artifact, backbone, prompts, seed=1)


def test_it_is_there_in_the_first_part_alone(backbone: Backbone) -> None:
    drawn(backbone, "a photo of <fido>", stop=0.5)
    # pictures and those beside them are one call; the negative branch is the engine's
    assert ASKED == [(0.0, 2), (0.25, 2)]


def test_its_own_guidance_asks_once_more(backbone: Backbone) -> None:
    one = drawn(backbone, "a photo of <fido>", stop=0.5)
    two = drawn(backbone, "a photo of <fido>", stop=0.5, shared=False)
    assert ASKED == [(0.0, 2), (0.0, 1), (0.25, 2), (0.25, 1)]
    assert not torch.equal(one, two)


def test_each_picture_has_its_own_beside_it(backbone: Backbone) -> None:
    """What another picture of the batch is asked for changes nothing of this one."""
    second = "a photo of <fido> in the snow"
    one = drawn(backbone, ["a photo of <fido>", second], stop=0.5)
    other = drawn(backbone, ["a cat and <fido> on the beach", second], stop=0.5)
    assert not torch.allclose(one[0], other[0], atol=1e-3)
    torch.testing.assert_close(one[1], other[1], atol=1e-4, rtol=1e-4)


def test_without_a_gate_the_attention_is_untouched(backbone: Backbone) -> None:
    recipe = make_recipe([GatedBranch(stop=0.5)])
    run, features, _ = extracted(recipe, [make_subject()], backbone)
    from pcs_core.merge import merge_fusions

    fusion = merge_fusions(run.call("fuse", features=features))
    prompts = ("a photo of dog",)
    assert torch.equal(evaluate(backbone, fusion, prompts), evaluate(backbone, Fusion(), prompts))
    with Attachment(backbone, fusion):
        pass
