"""Config-built random FLUX.1 networks on the real classes, for tests and defining checks."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from pcs_diffusers.flux import Flux, FluxKontext
from pcs_diffusers.tiny import build_t5_tokenizer, build_text_encoder, build_tokenizer, build_vae

F = TypeVar("F", bound=Flux)
SHIFTING = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
"""The noise schedule of FLUX.1 dev, which shifts with the picture's size."""
STILL = SHIFTING | {"shift": 1.0, "use_dynamic_shifting": False}
"""That of FLUX.1 schnell."""


def tiny_flux(*, seed: int = 0, device: str = "cpu") -> Flux:
    """Return a tiny FLUX.1 dev: 16 px latents of 16 channels, 32 px pictures, told its guidance."""
    return build_flux(Flux, SHIFTING, distilled=True, id="tiny-flux", seed=seed, device=device)


def tiny_schnell(*, seed: int = 0, device: str = "cpu") -> Flux:
    """Return a tiny FLUX.1 schnell: told no guidance, a schedule that does not shift."""
    return build_flux(Flux, STILL, distilled=False, id="tiny-schnell", seed=seed, device=device)


def tiny_kontext(*, seed: int = 0, device: str = "cpu") -> FluxKontext:
    """Return a tiny FLUX.1 Kontext: :func:`tiny_flux`, of the family that is given references."""
    return build_flux(
        FluxKontext, SHIFTING, distilled=True, id="tiny-kontext", seed=seed, device=device
    )


def build_flux(
    kind: type[F],
    schedule: dict[str, Any],
    *,
    distilled: bool,
    id: str,
    seed: int = 0,
    device: str = "cpu",
) -> F:
    """Return a network of two blocks of each kind, four heads of 16, T5 of 96 channels and CLIP of 32."""
    from diffusers import FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer, t5_tokenizer = build_tokenizer(), build_t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=64,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=96,
            pooled_projection_dim=32,
            guidance_embeds=distilled,
            axes_dims_rope=(4, 6, 6),
        )
        vae = build_vae(channels=16, scaling_factor=0.3611, shift_factor=0.1159)
        clip = build_text_encoder(tokenizer)
        t5 = T5Config(
            vocab_size=len(t5_tokenizer), d_model=96, d_kv=16, d_ff=64, num_layers=2, num_heads=4
        )
        encoder = T5EncoderModel(t5)
    return kind(
        transformer=transformer,
        vae=vae,
        text_encoder=clip,
        text_encoder_2=encoder,
        tokenizer=tokenizer,
        tokenizer_2=t5_tokenizer,
        t5_length=24,
        scheduler_config=schedule,
        id=id,
        device=device,
    )
