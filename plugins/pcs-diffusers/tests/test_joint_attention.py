"""Joint attention: where each stage acts, what is refused, and flow matching."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core.backbone import Attachment, select_sites
from pcs_core.catalogue import catalogue
from pcs_core.data import AttnEdit, Fusion, Level
from pcs_core.errors import CapabilityError, UnknownNameError
from pcs_diffusers.tiny import tiny_sd3
from pcs_engine.inversion import invert
from pcs_processes import FlowMatching
from pcs_testing import evaluate, evaluate_attached, make_recipe, make_subject
from pcs_testing.fixtures import build

PROMPTS = ("a photo of a dog", "a red toy on the beach")
PICTURE, TEXT = 64, 24 + 16


@pytest.fixture(scope="module")
def backbone() -> Any:
    return tiny_sd3()


def first_joint(backbone: Any) -> Any:
    return select_sites(backbone.sites, "joint")[0]


class Scaled(AttnEdit):
    """Scales rows of one tensor of a stage."""

    kinds = ("joint",)

    def __init__(self, site: Any, rows: slice, factor: float) -> None:
        super().__init__(site)
        self.rows, self.factor, self.seen = rows, factor, {}

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        changed = x.clone()
        changed[:, self.rows] *= self.factor
        return changed


class Values(Scaled):
    def qkv(self, state: Any, cond: Any) -> Any:
        self.seen.update(x=state.x, context=state.context, q=state.q, k=state.k, v=state.v)
        state.v = self.scaled(state.v)
        return state


class Output(Scaled):
    def out(self, state: Any, cond: Any) -> Any:
        state.out = self.scaled(state.out)
        return state


def test_sites_say_what_is_there(backbone: Any) -> None:
    sites = [s for s in backbone.sites if s.kind in ("joint", "self") and s.part == "denoiser"]
    assert [(s.name, s.kind) for s in sites] == [
        ("transformer_blocks.0.attn", "joint"),
        ("transformer_blocks.0.attn2", "self"),
        ("transformer_blocks.1.attn", "joint"),
        ("transformer_blocks.2.attn", "joint"),
    ]
    assert {f"{s.name}.processor" for s in sites} == set(backbone.denoiser.attn_processors)
    for site in sites:
        for part in "qkv":
            assert backbone.projection(site, part).weight.shape == (site.width, site.width)
        assert (site.heads, site.scale, site.width) == (4, 2, 64)
    for part in ("add_q", "add_k", "add_v", "add_out"):
        assert backbone.projection(sites[0], part).weight.shape == (64, sites[0].context)
        with pytest.raises(CapabilityError, match="no projection"):
            backbone.projection(sites[1], part)
    with pytest.raises(CapabilityError, match=r"transformer_blocks\.2\.attn has no .*'add_out'"):
        backbone.projection(sites[3], "add_out")


def test_the_picture_stands_in_front_and_the_text_behind(backbone: Any) -> None:
    edit = Values(first_joint(backbone), slice(0, 0), 1.0)
    plain = evaluate(backbone)
    assert torch.equal(evaluate(backbone, Fusion(edits=(edit,))), plain)
    shapes = {name: t.shape[1] for name, t in edit.seen.items()}
    assert shapes["x"] == PICTURE
    assert shapes["context"] == TEXT
    assert shapes["q"] == shapes["k"] == shapes["v"] == PICTURE + TEXT
    attn = backbone.denoiser.transformer_blocks[0].attn
    with torch.no_grad():
        torch.testing.assert_close(edit.seen["v"][:, :PICTURE], attn.to_v(edit.seen["x"]))
        torch.testing.assert_close(
            edit.seen["k"][:, PICTURE:], attn.add_k_proj(edit.seen["context"])
        )


@pytest.mark.parametrize("rows", [slice(0, PICTURE), slice(PICTURE, None)], ids=["picture", "text"])
@pytest.mark.parametrize("kind", [Values, Output])
def test_each_half_can_be_changed(backbone: Any, kind: Any, rows: slice) -> None:
    changed = evaluate(backbone, Fusion(edits=(kind(first_joint(backbone), rows, 3.0),)))
    assert (changed - evaluate(backbone)).abs().max() > 1e-4


def test_the_last_block_gives_no_text(backbone: Any) -> None:
    last = select_sites(backbone.sites, "joint")[-1]
    text = evaluate(backbone, Fusion(edits=(Output(last, slice(PICTURE, None), 3.0),)))
    assert torch.equal(text, evaluate(backbone))


def test_maps_are_those_of_both(backbone: Any) -> None:
    with torch.no_grad(), Attachment(backbone, Fusion()) as net:
        evaluation = evaluate_attached(net, PROMPTS, record=("joint",))
    assert len(evaluation.tape) == 3
    for maps in evaluation.tape.values():
        assert maps.shape == (2, 4, PICTURE + TEXT, PICTURE + TEXT)
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))
    torch.testing.assert_close(evaluation.output, evaluate(backbone), rtol=1e-4, atol=1e-5)


def test_key_and_value_deltas_are_those_of_the_text(backbone: Any) -> None:
    delta = (
        catalogue()
        .get("techniques", "weights.kv")
        .from_settings({"sites": "joint", "parts": ["q", "k", "v"]})
    )
    fusion, _ = build(make_recipe([delta]), [make_subject()], backbone)
    edit: Any = fusion.of(AttnEdit)[0]
    rng = torch.Generator().manual_seed(0)
    changes = {part: 0.2 * torch.randn(1, 64, 64, generator=rng) for part in "qkv"}
    with torch.no_grad():
        for part, change in changes.items():
            getattr(edit, part).copy_(change)
    ours = evaluate(backbone, fusion)
    for part, layer in {"q": "q", "k": "add_k", "v": "add_v"}.items():
        backbone.projection(edit.site, layer).weight.data += changes[part][0]
    try:
        theirs = evaluate(backbone)
    finally:
        for part, layer in {"q": "q", "k": "add_k", "v": "add_v"}.items():
            backbone.projection(edit.site, layer).weight.data -= changes[part][0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (ours - evaluate(backbone)).abs().max() > 1e-3


def test_an_edit_that_knows_no_joint_sites_is_refused_by_name(backbone: Any) -> None:
    class Other(AttnEdit):
        def out(self, state: Any, cond: Any) -> Any:
            return state

    edit = Other(first_joint(backbone))
    edit.owner = "my.use"
    with (
        pytest.raises(CapabilityError, match=r"'my\.use' cannot act on .*blocks\.0\.attn.* joint"),
        Attachment(backbone, Fusion(edits=(edit,))),
    ):
        pass
    evaluate(backbone)  # what was bound came off again


@pytest.mark.parametrize(
    "id",
    [
        *("tokens.layerwise", "tokens.mapper", "weights.kv", "weights.key_locked"),
        *("attention.regions", "attention.localization_loss", "guidance.layout"),
    ],
)
def test_a_technique_of_cross_attention_is_refused_by_name(backbone: Any, id: str) -> None:
    technique = catalogue().get("techniques", id).from_settings({})
    with pytest.raises(CapabilityError, match=rf"'{id}' acts on cross-attention.*blocks\.0\.attn"):
        build(make_recipe([technique]), [make_subject()], backbone)


def test_shared_attention_is_refused_at_joint_sites(backbone: Any) -> None:
    shared = catalogue().get("techniques", "attention.shared").from_settings({"sites": "joint"})
    fusion, _ = build(make_recipe([shared]), [make_subject()], backbone)
    with pytest.raises(CapabilityError, match=r"'attention\.shared' cannot act on"):
        evaluate(backbone, fusion)


def test_control_branches_are_refused(backbone: Any) -> None:
    with pytest.raises(CapabilityError, match="no control network"):
        backbone.control_network(3, 1.0)


# flow matching


def test_levels_and_times_are_inverse() -> None:
    for shift in (1.0, 3.0):
        process = FlowMatching(shift)
        times = torch.arange(1000)
        level = process.level(times)
        assert torch.equal(process.at(process.fraction(level)), times)
        torch.testing.assert_close(level.alpha + level.sigma, torch.ones(1000))
        assert level.sigma[-1] == 1.0
        torch.testing.assert_close(level.time, level.sigma * 1000)
    half = FlowMatching(3.0).level(torch.tensor([499]))
    torch.testing.assert_close(half.sigma, torch.tensor([0.75]))


def test_flow_is_what_leads_from_the_picture_to_the_noise() -> None:
    process, rng = FlowMatching(3.0), torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 2, 4, 4, generator=rng) for _ in range(2))
    level = process.level(torch.tensor([10, 500, 999]))
    noisy = process.corrupt(x0, noise, level)
    torch.testing.assert_close(noisy[2], noise[2])
    flow = process.target(x0, noise, level)
    torch.testing.assert_close(process.denoised(flow, noisy, level), x0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(process.native(x0, noisy, level), flow, rtol=1e-3, atol=1e-4)


def test_times_are_drawn_around_the_middle() -> None:
    times = FlowMatching(3.0).draw_times(4000, torch.Generator().manual_seed(0))
    assert times.dtype == torch.long
    assert times.min() >= 0
    assert times.max() <= 999
    inner = ((times > 270) & (times < 730)).float().mean()
    assert 0.63 < inner < 0.73  # one standard deviation of the logit


def test_the_schedulers_x0_is_ours(backbone: Any) -> None:
    sampler, rng = backbone.sampler("euler", 5), torch.Generator().manual_seed(0)
    latents = sampler.start(torch.randn(2, *backbone.latent_shape, generator=rng))
    x0 = torch.randn(2, *backbone.latent_shape, generator=rng)
    for index, time in enumerate(sampler.times):
        level = sampler.level(index, 2)
        torch.testing.assert_close(level.time, level.sigma * 1000)
        native = backbone.process.native(x0, sampler.show(latents, time), level)
        latents = sampler.advance(latents, native, time, [])
    torch.testing.assert_close(latents, x0, rtol=1e-4, atol=1e-4)  # one straight line


def test_an_unknown_scheduler_names_the_nearest(backbone: Any) -> None:
    with pytest.raises(UnknownNameError, match="'eulr', did you mean 'euler'"):
        backbone.sampler("eulr", 3)


def test_a_picture_can_be_inverted(backbone: Any) -> None:
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    path = invert(backbone, picture, "a dog", steps=4)
    assert path.shape == (5, *backbone.latent_shape)
    assert torch.isfinite(path).all()
    assert isinstance(backbone.process.level(torch.tensor([3])), Level)
