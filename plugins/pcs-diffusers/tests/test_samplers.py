"""Schedulers are fed their native quantity, and levels are those of the latents."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pcs_core.errors import CapabilityError, UnknownNameError
from pcs_diffusers.samplers import SCHEDULERS, DiffusersSampler, make_scheduler
from pcs_diffusers.tiny import tiny, tiny_v

CPU = torch.device("cpu")


def reference_x0(sampler: Any, native: torch.Tensor, latents: torch.Tensor, time: Any) -> Any:
    """What the scheduler itself takes for x0."""
    scheduler = copy.deepcopy(sampler.scheduler)
    if hasattr(scheduler, "convert_model_output"):
        if scheduler.step_index is None:
            scheduler._init_step_index(time)
        return scheduler.convert_model_output(native, sample=latents)
    options = {"generator": torch.Generator()} if sampler.stochastic else {}
    return scheduler.step(native, time, latents, **options).pred_original_sample


@pytest.mark.parametrize("make", [tiny, tiny_v], ids=["epsilon", "v"])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ddim", {}),
        ("dpm++", {}),
        ("dpm++", {"use_karras_sigmas": True}),
        ("dpm++", {"timestep_spacing": "trailing"}),
        ("euler", {}),
        ("euler", {"use_karras_sigmas": True}),
        ("euler", {"timestep_spacing": "linspace"}),
        ("unipc", {}),
        ("unipc", {"use_karras_sigmas": True}),
        ("ddpm", {}),
        ("dpm++", {"timestep_spacing": "leading"}),
        *((name, {}) for name in SCHEDULERS if name not in ("lcm",)),
        ("euler-a", {"timestep_spacing": "trailing"}),
        ("heun", {"timestep_spacing": "trailing"}),
    ],
)
def test_our_x0_is_the_schedulers_and_our_native_feeds_it(
    make: Any, name: str, config: dict[str, Any]
) -> None:
    backbone = make()
    sampler = DiffusersSampler(name, {**backbone.scheduler_config, **config}, 8, CPU)
    rng = torch.Generator().manual_seed(0)
    latents = sampler.start(torch.randn(2, 4, 8, 8, generator=rng))
    rngs = [torch.Generator().manual_seed(i) for i in range(2)]
    for index, time in enumerate(sampler.times):
        output = torch.randn(2, 4, 8, 8, generator=rng)
        shown, level = sampler.show(latents, time), sampler.level(index, 2)
        torch.testing.assert_close(sampler.hide(shown, index), latents, rtol=1e-5, atol=1e-6)
        x0 = backbone.process.denoised(output, shown, level)
        expected = reference_x0(sampler, output, latents, time)
        assert (x0 - expected).abs().max() < 2e-6 * expected.abs().max().clamp_min(1)
        native = backbone.process.native(x0, shown, level)
        assert (native - output).abs().max() < 1e-3
        latents = sampler.advance(latents, native, time, rngs)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_prediction_type_is_never_changed(name: str) -> None:
    for make in (tiny, tiny_v):
        backbone = make()
        scheduler = backbone.sampler(name, 3).scheduler
        assert scheduler.config.prediction_type == backbone.card.prediction


def test_each_run_has_a_scheduler_of_its_own() -> None:
    backbone = tiny()
    first, second = (backbone.sampler("dpm++", 4) for _ in range(2))
    latents = torch.zeros(1, 4, 16, 16)
    first.advance(latents, latents, first.times[0], [])
    assert first.scheduler is not second.scheduler
    assert second.scheduler.step_index is None


def test_an_unknown_scheduler_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'dimm', did you mean 'ddim'"):
        make_scheduler("dimm", tiny().scheduler_config)


def test_churn_is_refused_by_name() -> None:
    with pytest.raises(CapabilityError, match="s_churn"):
        make_scheduler("euler", {**tiny().scheduler_config, "s_churn": 0.5})


def test_epsilon_with_zero_snr_is_refused_and_v_is_not() -> None:
    from pcs_diffusers.stable_diffusion import StableDiffusion

    for make, fails in ((tiny, True), (tiny_v, False)):
        parts = make()
        config = {**parts.scheduler_config, "rescale_betas_zero_snr": True}
        given = {
            "unet": parts.denoiser,
            "vae": parts.vae,
            "text_encoder": parts.text_encoder,
            "tokenizer": parts.tokenizer.inner,
            "scheduler_config": config,
            "id": "zero",
        }
        if fails:
            with pytest.raises(CapabilityError, match="zero terminal SNR"):
                StableDiffusion(**given)
        else:
            backbone = StableDiffusion(**given)
            latents = torch.ones(1, 4, 16, 16)
            level = backbone.process.level(torch.tensor([999]))
            assert torch.isfinite(backbone.process.denoised(latents, latents, level)).all()
