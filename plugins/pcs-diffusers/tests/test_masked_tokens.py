"""The masked-token family: ids as latents, logits as predictions, folders, and the same two loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AmusedScheduler

from pcs_core import fit, open_backbone, sample
from pcs_core.backbone import Attachment
from pcs_core.data import Fusion, Phase
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.masked_tokens import TokenTransformer
from pcs_diffusers.tiny import tiny_tokens
from pcs_testing import Snapshot, evaluate_attached, make_picture, make_recipe, make_subject
from pcs_testing.probe import Probe

PROMPTS = ("a photo of a dog", "a red toy on the beach")


@pytest.fixture(scope="module")
def backbone() -> TokenTransformer:
    return tiny_tokens()


def half_masked(backbone: TokenTransformer) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 32, (2, 1, 8, 8), generator=rng).float()
    level = backbone.process.level(torch.tensor([500, 500]))
    return backbone.process.corrupt(ids, torch.randn(2, 1, 8, 8, generator=rng), level)


def test_an_empty_chain_is_the_bare_network(backbone: TokenTransformer) -> None:
    latents = half_masked(backbone)
    before = Snapshot(backbone)
    with torch.no_grad(), Attachment(backbone, Fusion()) as net:
        evaluation = evaluate_attached(net, PROMPTS, latents=latents)
    before.assert_unchanged()
    ids = backbone.tokenizer.inner(
        list(PROMPTS), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        text, pooled = backbone.encode_ids(ids)
        sizes = torch.tensor([[16.0, 16.0, 0.0, 0.0, 6.0]] * 2)
        plain = backbone.denoiser(latents[:, 0].long(), text, pooled, sizes)
    assert torch.equal(evaluation.output, plain)
    assert torch.equal(evaluation.x0, plain)


def test_a_picture_is_tokens_and_back(backbone: TokenTransformer) -> None:
    pictures = torch.stack([make_picture(i, (16, 16)) for i in range(2)])
    ids, std = backbone.moments(pictures)
    assert ids.shape == (2, 1, 8, 8)
    assert std.abs().max() == 0
    assert torch.equal(ids, ids.round())
    assert len(ids.unique()) > 3
    with torch.no_grad():
        shape = (2, 8, 8, 4)
        reference = backbone.vae.decode(ids[:, 0].long(), force_not_quantize=True, shape=shape)
    assert torch.equal(backbone.decode(ids), reference.sample.clamp(0, 1))


def test_the_loss_of_a_fit_is_the_cross_entropy_of_masked_tokens(
    backbone: TokenTransformer,
) -> None:
    recipe = make_recipe([Probe()], Phase("p", 30, batch={"subject": 4}, lr={"*": 5e-2}))
    (artifact,) = fit(recipe, make_subject(size=(16, 16)), backbone)
    # an untrained network guesses one of 32
    assert 0.2 < artifact.losses["core.denoise"] < 1.3 * torch.tensor(32.0).log()


def test_the_steps_unmask_and_each_row_is_its_own(backbone: TokenTransformer) -> None:
    sampler = backbone.sampler("ddim", 4)
    latents = sampler.start(torch.zeros(2, 1, 8, 8))
    masked = []
    for time in sampler.times:
        masked.append(int((latents[0] == 32).sum()))
        logits = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(int(time)))
        rngs = [torch.Generator().manual_seed(9 + i) for i in range(2)]
        alone = sampler.advance(latents[1:], logits[1:], time, rngs[1:])
        rngs = [torch.Generator().manual_seed(9 + i) for i in range(2)]
        latents = sampler.advance(latents, logits, time, rngs)
        assert torch.equal(latents[1:], alone)
    assert masked[0] == 64
    assert masked == sorted(masked, reverse=True)
    assert not (latents == 32).any()


def test_levels_fall_from_all_masked(backbone: TokenTransformer) -> None:
    sampler = backbone.sampler("ddim", 4)
    levels = [float(sampler.level(i, 1).sigma) for i in range(4)]
    # the scheduler masks cos(i pi / 2 n) of the tokens before step i
    expected = torch.cos(torch.arange(4) / 4 * torch.pi / 2)
    assert (torch.tensor(levels) - expected).abs().max() < 2e-3


def test_guidance_mixes_logits(backbone: TokenTransformer) -> None:
    plain = sample(None, backbone, PROMPTS[0], steps=4, scale=1.0)
    guided = sample(None, backbone, PROMPTS[0], steps=4, scale=9.0)
    assert plain.shape == (1, 3, 16, 16)
    assert not torch.equal(plain, guided)


def test_what_needs_continuous_latents_says_so(backbone: TokenTransformer) -> None:
    from pcs_engine.run import EngineRun

    run = EngineRun(make_recipe([]), backbone)
    with pytest.raises(CapabilityError, match="draws tokens: only continuous latents"):
        run.invert(make_picture(0, (16, 16)), "a dog", steps=2)
    with pytest.raises(CapabilityError, match=r"'euler' does not fit .* tokens .*of tokens: ddim"):
        backbone.sampler("euler", 2)


def test_a_saved_folder_is_the_same_backbone(backbone: TokenTransformer, tmp_path: Path) -> None:
    backbone.denoiser.save_pretrained(tmp_path / "transformer")
    backbone.vae.save_pretrained(tmp_path / "vqvae")
    backbone.text_encoder.save_pretrained(tmp_path / "text_encoder")
    backbone.tokenizer.inner.save_pretrained(tmp_path / "tokenizer")
    AmusedScheduler(mask_token_id=32).save_pretrained(tmp_path / "scheduler")
    opened: Any = open_backbone(tmp_path)
    assert isinstance(opened, TokenTransformer)
    for part, module in backbone.parts.items():
        saved = opened.parts[part].state_dict()
        assert all(torch.equal(t, saved[n]) for n, t in module.state_dict().items())
    AmusedScheduler(mask_token_id=7).save_pretrained(tmp_path / "scheduler")
    with pytest.raises(InputError, match="mask_token_id 7 is no entry beyond"):
        open_backbone(tmp_path)
