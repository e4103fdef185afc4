"""Block edits: modules in the residual stream, at every place that the families name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pcs_core import open_backbone
from pcs_core.backbone import Attachment, Backbone, gather, select_sites
from pcs_core.data import BlockEdit, Conditioning, Fusion, Site
from pcs_core.errors import CapabilityError, ConflictError
from pcs_core.merge import merge_fusions
from pcs_testing.fixtures import Snapshot, evaluate, evaluate_attached

PROMPTS = ("a photo of a dog", "a red car")
FAMILIES = ("tiny", "tiny-sdxl", "tiny-sd3", "tiny-video", "tiny-animatediff")


class Gated(BlockEdit):
    """Adds a gate [S] times a fixed function of the stream."""

    def __init__(self, site: Site, gate: float = 0.0, subjects: int = 1, **options: Any) -> None:
        super().__init__(site, stacked=True, **options)
        self.gate = nn.Parameter(torch.full((subjects,), gate))
        self.seen: list[tuple[int, ...]] = []

    def add(self, x: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        self.seen.append(tuple(x.shape))
        assert cond.rows == x.shape[0]
        gate = gather(self.gate, cond.subject)
        return gate.view(-1, *[1] * (x.dim() - 1)) * torch.tanh(x + 0.1)


class Tokens(Gated):
    sees = "tokens"


class Grid(Gated):
    sees = "grid"


class Time(Gated):
    sees = "time"


class Clip(Gated):
    sees = "clip"


class Twice(BlockEdit):
    """Replaces the stream by a multiple of it."""

    def __init__(self, site: Site, factor: float = 2.0) -> None:
        super().__init__(site)
        self.factor = factor

    def replace(self, x: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        return x * self.factor


def places(backbone: Backbone) -> dict[str, Site]:
    """Return the first site of each kind of place."""
    first: dict[str, Site] = {}
    for site in backbone.sites:
        if site.stream:
            first.setdefault(site.kind, site)
    return first


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gate_of_zero_is_the_base_and_another_is_not_at_every_place(family: str) -> None:
    backbone = open_backbone(family)
    before = Snapshot(backbone)
    plain = evaluate(backbone, prompts=PROMPTS)
    for kind, site in places(backbone).items():
        assert torch.equal(evaluate(backbone, Fusion(edits=(Gated(site),)), PROMPTS), plain), kind
        assert torch.equal(evaluate(backbone, Fusion(edits=(Twice(site, 1.0),)), PROMPTS), plain)
        moved = evaluate(backbone, Fusion(edits=(Gated(site, 0.5),)), PROMPTS)
        assert (moved - plain).abs().max() > 1e-5, kind
        replaced = evaluate(backbone, Fusion(edits=(Twice(site),)), PROMPTS)
        assert (replaced - plain).abs().max() > 1e-5, kind
        before.assert_unchanged()


def test_the_stream_behind_a_layer_is_the_sum_that_the_next_norm_reads() -> None:
    backbone: Any = open_backbone("tiny")
    for place, following in (("after_self", "norm2"), ("after_cross", "norm3")):
        site = select_sites(backbone.sites, place)[0]
        shown: list[torch.Tensor] = []

        class Watch(BlockEdit):
            def add(
                self,
                x: torch.Tensor,
                cond: Conditioning,
                shown: list[torch.Tensor] = shown,
            ) -> torch.Tensor:
                shown.append(x)
                return 0.5 * x

        norm = backbone.parts["denoiser"].get_submodule(
            f"{site.layer.rpartition('.')[0]}.{following}"
        )
        read: list[torch.Tensor] = []
        hook = norm.register_forward_pre_hook(lambda _, args, read=read: read.append(args[0]))
        evaluate(backbone, Fusion(edits=(Watch(site),)), PROMPTS)
        hook.remove()
        assert torch.allclose(read[0], 1.5 * shown[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["after_self", "after_resnet", "after_temporal", "after_block"])
def test_every_form_of_a_clip_is_the_same_stream(kind: str) -> None:
    backbone = open_backbone("tiny-video")
    site = places(backbone)[kind]
    frames = backbone.latent_shape[1]
    answers = []
    for edit in (
        Gated(site, 0.5),
        Tokens(site, 0.5),
        Grid(site, 0.5),
        Time(site, 0.5),
        Clip(site, 0.5),
    ):
        if edit.sees or site.stream != "time":
            answers.append(evaluate(backbone, Fusion(edits=(edit,)), PROMPTS))
        if edit.sees == "time":
            assert (edit.seen[0][0], edit.seen[0][2]) == (2, frames)
        if edit.sees == "clip":
            assert edit.seen[0][0] == 2
            assert edit.seen[0][2] == frames
    assert all(torch.allclose(a, answers[0], atol=1e-5) for a in answers)


def test_frames_over_time_stand_in_order() -> None:
    backbone = open_backbone("tiny-video")
    seen: dict[str, torch.Tensor] = {}

    def watch(form: Any) -> type[BlockEdit]:
        def add(self: Any, x: torch.Tensor, cond: Conditioning) -> torch.Tensor:
            seen[form] = x.detach()
            return torch.zeros_like(x)

        return type("Watch", (BlockEdit,), {"sees": form, "add": add})

    site = places(backbone)["after_resnet"]
    evaluate(
        backbone, Fusion(edits=tuple(watch(f)(site) for f in ("clip", "time", "grid"))), PROMPTS
    )
    clip = seen["clip"]
    assert torch.equal(seen["time"], clip.flatten(3).permute(0, 3, 2, 1))
    assert torch.equal(seen["grid"], clip.transpose(1, 2).flatten(0, 1))


def test_each_row_has_its_subjects_own_parameters() -> None:
    backbone = open_backbone("tiny")
    site = places(backbone)["after_cross"]
    both = Gated(site, subjects=2)
    with torch.no_grad():
        both.gate.copy_(torch.tensor([0.3, 0.7]))
    together = evaluate(backbone, Fusion(edits=(both,)), PROMPTS, subject=[0, 1])
    for row, gate in enumerate((0.3, 0.7)):
        alone = evaluate(backbone, Fusion(edits=(Gated(site, gate),)), PROMPTS)
        assert torch.allclose(together[row], alone[row], atol=1e-6)


def test_the_base_is_asked_without_it() -> None:
    backbone = open_backbone("tiny")
    plain = evaluate(backbone, prompts=PROMPTS)
    fusion = Fusion(edits=(Gated(places(backbone)["after_self"], 0.5),))
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        assert torch.equal(evaluate_attached(net, PROMPTS, model="base").output, plain)


@pytest.mark.parametrize(
    "kind", ["after_self", "after_cross", "after_feed_forward", "after_resnet"]
)
def test_recomputed_activations_give_the_same_gradients(kind: str) -> None:
    backbone = open_backbone("tiny")
    edit = Gated(places(backbone)[kind], 0.3)
    gradients = []
    for recompute in (False, True):
        with Attachment(backbone, Fusion(edits=(edit,)), fitting=True) as net:
            if recompute:
                net.use_checkpointing()
            edit.gate.grad = None
            evaluate_attached(net, PROMPTS).output.square().mean().backward()
            assert edit.gate.grad is not None
            gradients.append(edit.gate.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-5)
    assert gradients[0].abs().sum() > 0


def test_what_cannot_be_is_refused_by_name() -> None:
    tiny = open_backbone("tiny")
    linear = select_sites(tiny.sites, "*.to_q")[0]
    with (
        pytest.raises(
            CapabilityError, match=r"'Gated' cannot act at .*to_q, a site of kind 'linear'"
        ),
        Attachment(tiny, Fusion(edits=(Gated(linear),))),
    ):
        pass
    with (
        pytest.raises(
            CapabilityError, match=r"'Time' sees frames over time .* 'tiny' draws single"
        ),
        Attachment(tiny, Fusion(edits=(Time(places(tiny)["after_resnet"]),))),
    ):
        pass
    one = Fusion(edits=(Twice(places(tiny)["after_self"]),))
    two = Fusion(edits=(Twice(places(tiny)["after_self"]),))
    with pytest.raises(ConflictError, match=r"'a' and 'b' both claim the stream"):
        merge_fusions([("a", one), ("b", two)])


def test_a_glob_over_names_chooses_no_place_unless_it_says_so() -> None:
    sites = open_backbone("tiny").sites
    assert not any(s.stream for s in select_sites(sites, "mid_block*"))
    assert {s.kind for s in select_sites(sites, "mid_block*.after_cross")} == {"after_cross"}
    assert {s.block for s in select_sites(sites, "after_cross@mid")} == {"mid"}
