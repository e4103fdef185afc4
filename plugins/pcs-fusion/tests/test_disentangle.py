"""Each row of a fit is given the vector of its own reference, by the formulas of DisenBooth's released code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcs_core.data import REFERENCE, Batch, Conditioning
from pcs_fusion.disentangle import KEY, Disentangle, OwnVectors

RNG = torch.Generator().manual_seed(3)
PICTURES = torch.randn(2, 3, 6, generator=RNG)
TEXT = torch.randn(2, 5, 4, generator=RNG)
VECTORS = torch.randn(2, 3, 4, generator=RNG)


def made(width: int) -> OwnVectors:
    torch.manual_seed(0)
    edit = OwnVectors(6, width)
    with torch.no_grad():
        edit.mask.copy_(torch.linspace(-1, 2, 6))
    return edit


def step(index: list[int], **changes: Any) -> SimpleNamespace:
    """Return a step whose network says the mean of its text at every place, and whose target is 0."""
    given: list[Conditioning] = []

    def evaluate(noisy: torch.Tensor, level: Any, cond: Conditioning) -> SimpleNamespace:
        given.append(cond)
        return SimpleNamespace(
            output=cond.text.mean(dim=(1, 2)).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        )

    cond = Conditioning(
        text=TEXT, streams={KEY: VECTORS}, extra={REFERENCE: torch.tensor(index)}, **changes
    )
    batch = Batch(
        latents=torch.zeros(2, 1, 2, 2),
        subject=torch.zeros(2, dtype=torch.long),
        weight=torch.ones(2),
        roles=("subject", "subject"),
        captions=("", ""),
    )
    return SimpleNamespace(
        cond=cond,
        batch=batch,
        noisy=torch.zeros(2, 1, 2, 2),
        level=None,
        target=torch.zeros(2, 1, 2, 2),
        error=torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2),
        evaluate=evaluate,
        compute_error=lambda output, target: (output - target).square(),
        given=given,
    )


def test_a_vector_is_the_released_codes_where_the_widths_agree() -> None:
    """``Image_adapter``: adapter(sigmoid(mask) x) + sigmoid(mask) x, linear, ReLU, linear."""
    edit = made(6)
    masked = torch.sigmoid(edit.mask) * PICTURES
    first, _, last = edit.mlp
    hidden = (masked @ first.weight.T + first.bias).clamp_min(0)
    expected = hidden @ last.weight.T + last.bias + masked
    torch.testing.assert_close(edit.stream(PICTURES), expected, rtol=0, atol=1e-6)
    assert edit.through is None


@pytest.mark.parametrize("width", [4, 9])
def test_another_width_starts_with_the_features_first_entries(width: int) -> None:
    edit = made(width)
    masked = torch.sigmoid(edit.mask) * PICTURES
    passed = (edit.stream(PICTURES) - edit.mlp(masked)).detach()
    same = min(6, width)
    torch.testing.assert_close(passed[..., :same], masked[..., :same].detach(), rtol=0, atol=1e-6)
    assert not passed[..., same:].any()


def test_a_row_is_told_its_own_reference_at_every_position() -> None:
    seen: Any = step([2, -1])
    losses = {loss.name: loss for loss in Disentangle(specific=0.5).regularize(None, seen)}
    joint, specific = seen.given
    torch.testing.assert_close(joint.text[0], TEXT[0] + VECTORS[0, 2])
    assert torch.equal(joint.text[1], TEXT[1]), "a row of no reference has no vector"
    assert torch.equal(specific.text[0], VECTORS[0, 2].expand(5, 4))
    assert not specific.text[1].any()
    given = {"disentangle.joint": joint.text, "disentangle.specific": specific.text}
    for name, text in given.items():
        torch.testing.assert_close(losses[name].value, text.mean(dim=(1, 2)).square())
    assert losses["disentangle.common"].value.tolist() == [1.0, 2.0]
    weights = {name: loss.weight for name, loss in losses.items()}
    assert weights == {
        **{"disentangle.joint": 1.0, "disentangle.common": 0.01},
        **{"disentangle.specific": 0.5, "disentangle.apart": 0.001},
    }


def test_the_text_of_each_layer_is_shifted_too() -> None:
    seen: Any = step([0, 1], layered=TEXT.unsqueeze(1).expand(2, 3, 5, 4))
    Disentangle().regularize(None, seen)
    each = VECTORS[torch.arange(2), torch.arange(2)]
    torch.testing.assert_close(
        seen.given[0].layered, (TEXT + each.unsqueeze(1)).unsqueeze(1).expand(2, 3, 5, 4)
    )


def test_the_contrast_is_the_cosine_with_the_texts_mean() -> None:
    seen: Any = step([1, 1])
    losses = Disentangle(joint=0.0, common=0.0).regularize(None, seen)
    assert [loss.name for loss in losses] == ["disentangle.apart"]
    assert not seen.given, "no forward for terms that are off"
    mean = TEXT.mean(dim=1)
    expected = (mean * VECTORS[:, 1]).sum(-1) / (mean.norm(dim=-1) * VECTORS[:, 1].norm(dim=-1))
    torch.testing.assert_close(losses[0].value, expected)
