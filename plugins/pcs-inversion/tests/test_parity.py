"""The inversion takes the steps of diffusers' DDIMInverseScheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import open_backbone
from pcs_engine.inversion import invert
from pcs_testing import make_picture

PROMPT = "a photo of a dog"


@pytest.mark.parametrize("id", ["tiny", "tiny-v"])
@pytest.mark.parametrize("steps", [5, 20])
def test_of_ddim_inverse_scheduler(id: str, steps: int) -> None:
    from diffusers import DDIMInverseScheduler

    backbone: Any = open_backbone(id)
    picture = make_picture(3)
    scheduler = DDIMInverseScheduler.from_config(backbone.scheduler_config)
    scheduler.set_timesteps(steps)
    ids = backbone.tokenizer.inner(
        PROMPT, padding="max_length", max_length=backbone.tokenizer.length, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        text, _ = backbone.encode_ids(ids)
        latents = backbone.vae.encode(picture[None] * 2 - 1).latent_dist.mean
        trajectory = invert(backbone, picture, PROMPT, steps=steps)
        # each step from where ours began it: the network would magnify what rounding leaves of the step before
        expected = [latents * backbone.vae.config.scaling_factor]
        for time, before in zip(scheduler.timesteps, trajectory, strict=False):
            said = backbone.denoiser(before[None], time, text).sample
            expected.append(scheduler.step(said, time, before[None]).prev_sample)
    assert len(trajectory) == len(expected) == steps + 1
    torch.testing.assert_close(trajectory, torch.cat(expected), rtol=0.0, atol=1e-6)
