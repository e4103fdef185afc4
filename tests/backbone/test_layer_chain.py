"""Edits of layers: before, weight, call, residual, after; and of pixels and tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_core.backbone import Attachment, Backbone, select_sites
from pcs_core.data import Conditioning, Fusion, LayerEdit, PixelEdit, Site, TokenEdit, WeightEdit
from pcs_core.errors import CapabilityError
from pcs_testing import Snapshot, evaluate, evaluate_attached, make_picture

PROMPTS = ("a photo of a dog", "a red toy on the beach")


class Before(LayerEdit):
    def before(self, x: Tensor, cond: Conditioning | None) -> Tensor:
        return x + 0.5 * x.square()  # a shift alone would vanish in a norm


class After(LayerEdit):
    def after(self, y: Tensor, cond: Conditioning | None) -> Tensor:
        return y * 2


class FirstRow(LayerEdit):
    """Feature injection: every row gets the first one's features."""

    def after(self, y: Tensor, cond: Conditioning | None) -> Tensor:
        return y[:1].expand_as(y)


class Weight(WeightEdit):
    def weight(self, weight: Tensor) -> Tensor:
        return weight * 2


class Call(WeightEdit):
    def call(self, layer: Any, x: Tensor, cond: Conditioning | None) -> Tensor:
        return 2 * layer(x)


class Residual(WeightEdit):
    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        return y


def pick(backbone: Backbone, glob: str, kind: str = "*", part: str = "denoiser") -> Site:
    return select_sites(backbone.sites, glob, kind=kind, part=part)[0]


@pytest.mark.parametrize("edit", [Before, After])
@pytest.mark.parametrize(
    ("glob", "kind"),
    [
        ("*.conv1", "conv"),
        ("*", "resnet"),
        ("*.norm2", "norm"),
        ("*.attentions.0.norm", "norm"),
        ("*.to_q", "linear"),
        ("conv_in", "conv"),
    ],
)
def test_before_and_after_act_and_come_off(
    backbone: Backbone, edit: type[LayerEdit], glob: str, kind: str
) -> None:
    before, plain = Snapshot(backbone), evaluate(backbone)
    fusion = Fusion(edits=(edit(pick(backbone, glob, kind)),))
    assert (evaluate(backbone, fusion) - plain).abs().max() > 1e-5
    assert torch.equal(evaluate(backbone), plain)
    before.assert_unchanged()


def test_injection_leaves_the_first_row_and_moves_the_others(backbone: Backbone) -> None:
    plain = evaluate(backbone)
    fusion = Fusion(edits=(FirstRow(pick(backbone, "mid_block*", "resnet")),))
    moved = evaluate(backbone, fusion)
    assert torch.equal(moved[0], plain[0])
    assert (moved[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize("glob", ["*.to_k", "*.conv1", "*.downsamplers.0.conv"])
def test_weight_call_and_residual_agree_on_a_doubled_layer(backbone: Backbone, glob: str) -> None:
    site = pick(backbone, glob)
    module = backbone.parts["denoiser"].get_submodule(site.name)
    bias: Any = module.bias
    called = evaluate(backbone, Fusion(edits=(Call(site),)))
    residual = evaluate(backbone, Fusion(edits=(Residual(site),)))
    assert (called - evaluate(backbone)).abs().max() > 1e-4
    torch.testing.assert_close(called, residual, rtol=1e-5, atol=1e-6)
    weight = evaluate(backbone, Fusion(edits=(Weight(site),)))
    if bias is None:
        torch.testing.assert_close(weight, called, rtol=1e-5, atol=1e-6)
    else:  # W' = f(W) leaves the bias alone
        kept = bias.detach().clone()
        with torch.no_grad():
            bias.zero_()
            zeroed = [evaluate(backbone, Fusion(edits=(e(site),))) for e in (Weight, Call)]
            bias.copy_(kept)
        torch.testing.assert_close(*zeroed, rtol=1e-5, atol=1e-6)


def test_stages_of_a_layer_run_in_order(backbone: Backbone) -> None:
    seen: list[str] = []

    def spy(base: type, stage: str) -> Any:
        def note(self: Any, first: Any, *rest: Any) -> Any:
            seen.append(stage)
            inherited = getattr(base, stage)
            return inherited(self, first, *rest)

        return type("Spy", (base,), {stage: note})(pick(backbone, "*.to_k"))

    stages = [
        (WeightEdit, "residual"),
        (LayerEdit, "after"),
        (WeightEdit, "weight"),
        (LayerEdit, "before"),
    ]
    edits = [spy(*s) for s in stages]
    evaluate(
        backbone,
        Fusion(edits=tuple(edits)),
    )
    assert seen == ["before", "weight", "residual", "after"]


def test_weights_of_other_layers_cannot_be_rewritten(backbone: Backbone) -> None:
    before = Snapshot(backbone)
    fusion = Fusion(edits=(Weight(pick(backbone, "*", "embedding", "text")),))
    with pytest.raises(CapabilityError, match="only linear, 2-d convolution, group and layer norm"):
        evaluate(backbone, fusion)
    before.assert_unchanged()


@pytest.mark.parametrize("glob", ["conv_norm_out", "*.norm2"])
def test_the_weight_of_a_norm_can_be_rewritten(backbone: Backbone, glob: str) -> None:
    site = pick(backbone, glob, "norm")
    ours = evaluate(backbone, Fusion(edits=(Weight(site),)))
    module = backbone.parts["denoiser"].get_submodule(site.name)
    kept = module.weight.data
    module.weight.data = 2 * kept
    doubled = evaluate(backbone)
    module.weight.data = kept
    assert not torch.equal(doubled, evaluate(backbone))
    torch.testing.assert_close(ours, doubled)


def test_layers_of_the_text_encoder_see_the_rows_subjects(backbone: Backbone) -> None:
    seen: list[Any] = []

    class Spy(WeightEdit):
        def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
            seen.append(None if cond is None else cond.subject)
            return torch.zeros_like(y)

    site = pick(backbone, "*.fc1", part="text")
    with torch.no_grad(), Attachment(backbone, Fusion(edits=(Spy(site),))) as net:
        evaluate_attached(net, PROMPTS, [1, 0])
    assert [s.tolist() for s in seen] == [[1, 0]]


class Darken(PixelEdit):
    def input(self, images: Tensor) -> Tensor:
        return images * 0.5


class Invert(PixelEdit):
    def decoded(self, images: Tensor) -> Tensor:
        return 1 - images


def test_pixel_edits_act_at_their_own_stage(backbone: Backbone) -> None:
    image = make_picture()[None]
    with Attachment(backbone, Fusion(edits=(Darken("p"), Invert("q")))) as net:
        assert torch.equal(net.pixels(image, "input"), image * 0.5)
        assert torch.equal(net.pixels(image, "decoded"), 1 - image)


class Rows(TokenEdit):
    def __init__(self, rows: Tensor, token: str = "<x>") -> None:
        super().__init__([token], count=rows.shape[1], hosts=["dog"])
        self.rows = torch.nn.Parameter(rows)

    def vocabulary(self) -> Tensor:
        return self.rows


class Shift(TokenEdit):
    def output(self, text: Tensor, span: Tensor, subject: Tensor | None) -> Tensor:
        text = text.clone()
        for row, places in enumerate(span.tolist()):
            text[row, [p for p in places if p >= 0]] += 1
        return text


def test_token_edits_of_the_table_and_of_the_output(backbone: Backbone) -> None:
    prompts = ("a photo of <x> on the beach",)
    host = evaluate(backbone, prompts=("a photo of dog on the beach",))
    table: Any = backbone.embedding
    ids = backbone.tokenizer.encode("dog")
    same = Rows(table.weight[ids][None].detach().clone())
    assert torch.equal(evaluate(backbone, Fusion(edits=(same,)), prompts), host)
    other = Rows(torch.ones(1, 1, 32))
    assert not torch.equal(evaluate(backbone, Fusion(edits=(other,)), prompts), host)
    # two edits of one placeholder: the row in the table, and the encoder's output at its place
    shift = Shift(["<x>"], count=1, hosts=["dog"])
    both = evaluate(backbone, Fusion(edits=(same, shift)), prompts)
    assert (both - host).abs().max() > 1e-4
    assert torch.equal(evaluate(backbone, Fusion(edits=(shift,)), prompts), both)
