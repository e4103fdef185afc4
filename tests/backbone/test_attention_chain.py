"""The five stages of the attention chain, on every attention site of a real UNet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pcs_core.backbone import Attachment, Backbone, select_sites
from pcs_core.data import AttnEdit, AttnState, Conditioning, Fusion, Site
from pcs_testing import Snapshot, evaluate, evaluate_attached

PROMPTS = ("a photo of a dog", "a red toy on the beach")


class Qkv(AttnEdit):
    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        state.v = state.v * 2
        return state


class Extra(AttnEdit):
    def extra(self, state: AttnState, cond: Conditioning) -> AttnState:
        state.k = torch.cat([state.k, state.k.flip(1)], dim=1)
        state.v = torch.cat([state.v, 3 * state.v.flip(1)], dim=1)
        return state


class ExtraCopy(AttnEdit):
    """Every key and value twice: attention is unchanged."""

    def extra(self, state: AttnState, cond: Conditioning) -> AttnState:
        state.k = torch.cat([state.k, state.k], dim=1)
        state.v = torch.cat([state.v, state.v], dim=1)
        return state


class Bias(AttnEdit):
    def bias(self, state: AttnState, cond: Conditioning) -> AttnState:
        added = torch.zeros(1, 1, 1, state.k.shape[1])
        added[..., 0] = -torch.inf
        state.bias = added if state.bias is None else state.bias + added
        return state


class Probs(AttnEdit):
    def probs(self, state: AttnState, cond: Conditioning) -> AttnState:
        assert state.probs is not None
        probs = state.probs.clone()
        probs[..., 0] = 0
        state.probs = probs / probs.sum(-1, keepdim=True)
        return state


class Recorder(AttnEdit):
    """At the probs stage without a change: leaves the fused path."""

    def probs(self, state: AttnState, cond: Conditioning) -> AttnState:
        return state


class Out(AttnEdit):
    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        assert state.out is not None
        state.out = state.out + 0.5 * state.x.mean(1, keepdim=True)
        return state


def attention(backbone: Backbone, glob: str = "attention") -> tuple[Site, ...]:
    return select_sites(backbone.sites, glob)


def test_an_empty_chain_is_the_stock_processor_bit_for_bit(backbone: Backbone) -> None:
    unet = backbone.parts["denoiser"]
    rng = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 4, 16, 16, generator=rng), torch.randn(2, 24, 32, generator=rng)
    with torch.no_grad():
        stock = unet(x, 300, encoder_hidden_states=text).sample
        processors = {type(p).__name__ for p in unet.attn_processors.values()}
        with Attachment(backbone, Fusion()):
            assert processors != {type(p).__name__ for p in unet.attn_processors.values()}
            ours = unet(x, 300, encoder_hidden_states=text).sample
    assert torch.equal(stock, ours)


@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("edit", [Qkv, Extra, Bias, Probs, Out])
def test_each_stage_changes_the_output_and_comes_off(
    backbone: Backbone, edit: type[AttnEdit], kind: str
) -> None:
    before, plain = Snapshot(backbone), evaluate(backbone, prompts=PROMPTS)
    sites = attention(backbone, kind)
    assert sites
    changed = evaluate(backbone, Fusion(edits=tuple(edit(s) for s in sites)), PROMPTS)
    assert (changed - plain).abs().max() > 1e-3
    assert torch.equal(evaluate(backbone, prompts=PROMPTS), plain)
    before.assert_unchanged()


def test_the_explicit_path_agrees_with_the_fused_one(backbone: Backbone) -> None:
    plain = evaluate(backbone)
    looked = evaluate(backbone, Fusion(edits=tuple(Recorder(s) for s in attention(backbone))))
    assert 0 < (looked - plain).abs().max() < 2e-6


def test_doubled_keys_change_nothing(backbone: Backbone) -> None:
    doubled = Fusion(edits=tuple(ExtraCopy(s) for s in attention(backbone)))
    assert (evaluate(backbone, doubled) - evaluate(backbone)).abs().max() < 2e-6


def test_a_bias_of_minus_infinity_equals_zeroed_maps(backbone: Backbone) -> None:
    biased = Fusion(edits=tuple(Bias(s) for s in attention(backbone)))
    zeroed = Fusion(edits=tuple(Probs(s) for s in attention(backbone)))
    difference = (evaluate(backbone, biased) - evaluate(backbone, zeroed)).abs().max()
    assert difference < 2e-6


def test_stages_run_in_order_and_edits_of_a_stage_in_recipe_order(backbone: Backbone) -> None:
    seen: list[str] = []

    def watcher(stage: str, name: str, site: Site) -> AttnEdit:
        def note(self: AttnEdit, state: AttnState, cond: Conditioning) -> AttnState:
            seen.append(name)
            return state

        return type("Watcher", (AttnEdit,), {stage: note})(site)

    site = attention(backbone, "cross")[0]
    order = [
        ("out", "o"),
        ("bias", "b"),
        ("probs", "p"),
        ("qkv", "q1"),
        ("extra", "e"),
        ("qkv", "q2"),
    ]
    evaluate(backbone, Fusion(edits=tuple(watcher(s, n, site) for s, n in order)))
    assert seen == ["q1", "q2", "e", "b", "p", "o"]


def test_an_edit_sees_its_own_site_and_the_conditioning(backbone: Backbone) -> None:
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}
    subjects: list[torch.Tensor | None] = []

    class Spy(AttnEdit):
        def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
            assert state.site == self.site
            shapes[state.site.name] = (state.x.shape, state.context.shape)
            subjects.append(cond.subject)
            return state

    sites = attention(backbone)
    with (
        torch.no_grad(),
        Attachment(backbone, Fusion(edits=tuple(Spy(s) for s in sites))) as net,
    ):
        evaluate_attached(net, PROMPTS, [0, 1])
    assert set(shapes) == {s.name for s in sites}
    for site in sites:
        x, context = shapes[site.name]
        # the grid of a site is the latents' divided by its scale
        assert x == (2, (16 // site.scale) ** 2, site.width)
        assert context[1:] == ((24, 32) if site.kind == "cross" else x[1:])
        assert site.context == context[2]
    assert all(s is not None and s.tolist() == [0, 1] for s in subjects)


@pytest.mark.parametrize(
    ("methods", "word"), [((), "none"), (("qkv", "out"), "qkv, out")], ids=["none", "two"]
)
def test_an_edit_overrides_exactly_one_stage(
    backbone: Backbone, methods: tuple[str, ...], word: str
) -> None:
    def keep(self: AttnEdit, state: AttnState, cond: Conditioning) -> AttnState:
        return state

    stages: dict[str, Callable[..., AttnState]] = dict.fromkeys(methods, keep)
    edit = type("Wrong", (AttnEdit,), stages)(attention(backbone)[0])
    with pytest.raises(TypeError, match=f"exactly one of .* it overrides {word}"):
        evaluate(backbone, Fusion(edits=(edit,)))


def test_a_failed_attach_leaves_nothing(backbone: Backbone) -> None:
    before = Snapshot(backbone)
    bad = type("Wrong", (AttnEdit,), {})(attention(backbone)[0])
    with pytest.raises(TypeError), Attachment(backbone, Fusion(edits=(bad,))):
        pass
    before.assert_unchanged()


def test_sites_are_selected_by_glob_kind_and_regex(backbone: Backbone) -> None:
    names = {s.name for s in attention(backbone)}
    assert names == {s.name for k in ("self", "cross") for s in attention(backbone, k)}
    mid = select_sites(backbone.sites, "mid_block.*", kind="cross")
    assert [s.name for s in mid] == ["mid_block.attentions.0.transformer_blocks.0.attn2"]
    joined = select_sites(backbone.sites, "*.to_k|*.to_v", kind="linear")
    assert {s.name.rsplit(".", 1)[1] for s in joined} == {"to_k", "to_v"}
    assert [s.name for s in select_sites(backbone.sites, "/conv_(in|out)/")] == [
        "conv_in",
        "conv_out",
    ]
    assert all(s.part == "text" for s in select_sites(backbone.sites, "*", part="text"))
    assert not select_sites(backbone.sites, "no.such.layer")
