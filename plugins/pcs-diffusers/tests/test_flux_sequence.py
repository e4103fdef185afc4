"""References as tokens of the sequence: FLUX.1 Kontext's own pipeline, updates of them, keys that are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline

from pcs_core import fit_image
from pcs_core.backbone import Attachment
from pcs_core.catalogue import catalogue
from pcs_core.data import BlockEdit, Fusion, SequenceEdit
from pcs_core.errors import CapabilityError
from pcs_diffusers.flux_tokens import packed
from pcs_diffusers.tiny import tiny, tiny_sd3
from pcs_diffusers.tiny_flux import tiny_flux, tiny_kontext
from pcs_engine import fit, sample
from pcs_engine.randomness import generator
from pcs_testing import evaluate, evaluate_attached, make_recipe, make_subject
from pcs_testing.fixtures import build

PROMPTS = ("a photo of a <fido>", "a red toy on the beach with <fido>")
OMINI = {"level": 0.0, "shift": [0.0, -1.0]}
"""Places and noise level as in OminiControl."""


def technique(**settings: Any) -> Any:
    return catalogue().get("techniques", "fusion.in_context").from_settings(settings)


def attached(backbone: Any, **settings: Any) -> tuple[Fusion, Any]:
    """Return what is plugged in, its updates moved away from zero, and the features."""
    fusion, features = build(make_recipe([technique(**settings)]), [make_subject()], backbone)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for edit in fusion.edits:
            for name, parameter in edit.named_parameters():
                if name == "B":
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    return fusion, features


def said(backbone: Any, fusion: Fusion, features: Any, **options: Any) -> torch.Tensor:
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        output: torch.Tensor = evaluate_attached(
            net, ("a photo of a dog", "a red toy"), features=features, **options
        ).output
    return output


@pytest.fixture(scope="module")
def backbone() -> Any:
    return tiny_flux()


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_references_at_an_index_of_their_own_are_kontext(size: tuple[int, int]) -> None:
    backbone: Any = tiny_kontext()
    nameless = catalogue().get("techniques", "tokens.rare").from_settings({"identifier": ""})
    subject, reading = make_subject(), technique(index=1.0, in_every_branch=True)
    artifact = fit(make_recipe([nameless, reading]), subject, backbone)[0]
    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(backbone.scheduler_config),
        vae=backbone.vae,
        text_encoder=backbone.text_encoder.text_encoder,
        tokenizer=backbone.tokenizer.inner,
        text_encoder_2=backbone.text_encoder.t5,
        tokenizer_2=backbone.tokenizer.beside[0].inner,
        transformer=backbone.denoiser,
    )
    pipeline.set_progress_bar_config(disable=True)
    texts = [p.replace("<fido>", subject.concept.noun) for p in PROMPTS]
    (height, width), rngs = size, [generator(3 + i, "noise") for i in range(2)]
    noise = [torch.randn((16, height // 2, width // 2), generator=g) for g in rngs]
    for scale in (1.0, 3.0):
        ours = sample(
            artifact, backbone, PROMPTS, seed=3, steps=3, scale=scale, size=size, negative="a"
        )
        theirs = pipeline(
            image=backbone.moments(fit_image(subject.images[0], (32, 32))[None])[0].detach(),
            prompt=texts,
            negative_prompt=["a"] * 2,
            true_cfg_scale=scale,
            latents=packed(torch.stack(noise)),
            num_inference_steps=3,
            output_type="pt",
            max_sequence_length=backbone.t5_length,
            _auto_resize=False,
            max_area=height * width,
            height=height,
            width=width,
        ).images
        assert (ours - theirs).abs().max() < 1e-5
    plain = sample(None, backbone, texts, seed=3, steps=3, scale=1.0, size=size)
    ours = sample(artifact, backbone, PROMPTS, seed=3, steps=3, scale=1.0, size=size)
    assert (ours - plain).abs().max() > 1e-3


@pytest.mark.parametrize("apart", [False, True])
def test_an_update_acts_on_these_tokens_alone(backbone: Any, apart: bool) -> None:
    fusion, features = attached(backbone, rank=2, apart=apart, **OMINI)
    updates = tuple(edit for edit in fusion.edits if edit.group)
    assert {edit.group for edit in updates} == {"reference"}
    read = said(backbone, fusion, features)
    bare, _ = attached(backbone, apart=apart, **OMINI)
    assert (read - said(backbone, bare, features)).abs().max() > 1e-3
    assert torch.equal(evaluate(backbone, Fusion(edits=updates)), evaluate(backbone))
    assert torch.equal(
        said(backbone, fusion, features, model="base"), said(backbone, Fusion(), features)
    )


def test_a_level_of_their_own_is_the_picture_s_where_it_is_the_same(backbone: Any) -> None:
    outputs = []
    level = float(backbone.process.level(torch.tensor([400])).sigma)
    for given in ({}, {"level": level}, {"level": 0.0}):
        fusion, features = attached(backbone, rank=2, **given)
        outputs.append(said(backbone, fusion, features))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert (outputs[0] - outputs[2]).abs().max() > 1e-4


def test_several_references_have_places_of_their_own(backbone: Any) -> None:
    fusion, features = attached(backbone, references=2, index=1.0)
    both = said(backbone, fusion, features)
    fusion, features = attached(backbone, references=1, index=1.0)
    assert (both - said(backbone, fusion, features)).abs().max() > 1e-4
    fusion, features = attached(backbone, references=4, index=1.0)
    assert features.tensors["reference"].shape[:2] == (1, 4)  # the last stands for those that lack


def counted(backbone: Any) -> tuple[list[int], Callable[[], None]]:
    """Return how many tokens each call of the first layer has from now on, and what stops it."""
    lengths: list[int] = []
    handle = backbone.denoiser.x_embedder.register_forward_pre_hook(
        lambda module, given: lengths.append(given[0].shape[1])
    )
    return lengths, handle.remove


def test_keys_of_tokens_that_read_themselves_alone_are_made_once() -> None:
    backbone: Any = tiny_flux()
    nameless = catalogue().get("techniques", "tokens.rare").from_settings({"identifier": ""})
    for apart, calls in ((True, 1), (False, 4)):
        reading = technique(rank=2, apart=apart, **OMINI)
        artifact = fit(make_recipe([nameless, reading]), make_subject(), backbone)[0]
        lengths, stop = counted(backbone)
        sample(artifact, backbone, PROMPTS[0], steps=4, scale=1.0, size=(32, 48))
        stop()
        assert lengths.count(64) == calls, "the reference has 64 tokens"
        assert lengths.count(96) == 4, "the picture has 96"


def test_kept_keys_are_those_that_would_be_made(backbone: Any) -> None:
    fusion, features = attached(backbone, rank=2, apart=True, **OMINI)
    prompts = ("a photo of a dog", "a red toy")
    with Attachment(backbone, fusion) as net:
        made = evaluate_attached(net, prompts, features=features).output
        with torch.no_grad():
            assert torch.equal(evaluate_attached(net, prompts, features=features).output, made)
            for edit in fusion.edits:
                for parameter in edit.parameters():
                    parameter.mul_(2.0)
            moved = evaluate_attached(net, prompts, features=features).output
        assert (moved - made).abs().max() > 1e-4
        torch.testing.assert_close(
            evaluate_attached(net, prompts, features=features).output, moved, rtol=0.0, atol=1e-6
        )


@pytest.mark.parametrize("apart", [False, True])
def test_activations_are_recomputed_alike(backbone: Any, apart: bool) -> None:
    fusion, features = attached(backbone, rank=2, apart=apart, **OMINI)
    parameters = [p for edit in fusion.edits for p in edit.parameters()]
    gradients = []
    for checkpointing in (False, True):
        for parameter in parameters:
            parameter.requires_grad_(True).grad = None
        with Attachment(backbone, fusion, fitting=True) as net:
            if checkpointing:
                net.use_checkpointing()
            output = evaluate_attached(net, ("a dog", "a toy"), features=features).output
            output.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].any()


class Pushed(BlockEdit):
    def add(self, x: Any, cond: Any) -> Any:
        return torch.ones_like(x)


def test_what_cannot_be_is_refused_by_name(backbone: Any) -> None:
    for other in (tiny(), tiny_sd3()):
        edit = SequenceEdit("reference", ("reference",))
        edit.owner = "my.use"
        with (
            pytest.raises(CapabilityError, match=r"'my\.use' appends tokens .*has none that could"),
            Attachment(other, Fusion(edits=(edit,))),
        ):
            pass
    fusion, _ = attached(backbone)
    pushed = Pushed(next(s for s in backbone.sites if s.kind == "after_feed_forward"))
    pushed.owner = "my.block"
    both = Fusion(edits=(*fusion.edits, pushed))
    with (
        pytest.raises(CapabilityError, match=r"'my\.block' acts on the residual stream"),
        Attachment(backbone, both),
    ):
        pass
