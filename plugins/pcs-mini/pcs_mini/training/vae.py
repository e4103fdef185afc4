"""Stage ``vae``: the autoencoder, 64 px pictures to 16x16x4 latents of zero mean, unit variance."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from pcs_mini.networks import build_vae
from pcs_mini.training.loop import (
    Average,
    Report,
    Settings,
    load_checkpoint,
    rate,
    save_checkpoint,
    start,
)
from pcs_mini.training.muon import split_optimizers
from pcs_mini.world.pool import render_pool

_HELD_BACK = 256


def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of the round trip; images ``[n, 3, h, w]`` in -1..1."""
    with torch.no_grad():
        back = torch.cat(
            [vae.decode(vae.encode(x).latent_dist.mean).sample for x in images.split(64)]
        )
    error = ((back.float().clamp(-1, 1) - images) / 2).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: Tensor) -> None:
    """Give each latent channel mean 0 and variance 1 on `images`.

    An affine map is folded into the two 1x1 convolutions. Decoding is unchanged;
    ``scaling_factor`` is 1 afterwards.
    """
    latents = torch.cat([vae.encode(x).latent_dist.mean for x in images.split(64)]).float()
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    n = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    after.bias += (after.weight * mean[None, :, None, None]).sum((1, 2, 3))
    after.weight *= std[None, :, None, None]
    before.weight[:n] /= std[:, None, None, None]
    before.bias[:n] = (before.bias[:n] - mean) / std
    before.bias[n:] -= 2 * std.log()
    vae.register_to_config(scaling_factor=1.0)


def train(settings: Settings, report: Report) -> Path:
    """Train and return the folder ``out/vae`` in diffusers layout (fp32, averaged weights)."""
    accelerator = start(settings)
    vae = build_vae() if settings.init is None else AutoencoderKL.from_pretrained(settings.init)
    vae = vae.to(accelerator.device).train()
    pool = render_pool(settings.pool + _HELD_BACK, settings.seed)
    images = torch.from_numpy(pool.images).permute(0, 3, 1, 2)
    held_back = images[settings.pool :].float().to(accelerator.device) / 127.5 - 1
    if settings.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
        vae.post_quant_conv.requires_grad_(False)
    modules = {"vae": vae}
    learning = [vae.decoder] if settings.decoder_only else [vae]
    optimizers = split_optimizers(
        learning, settings.lr, settings.matrix_lr, ("conv_in", "conv_out", "quant_conv")
    )
    average = Average(modules)
    draws = torch.Generator().manual_seed(settings.seed)
    generators = {"draws": draws}
    checkpoint = settings.out / "vae.safetensors"
    first = 0
    if settings.resume and checkpoint.exists():
        first = load_checkpoint(checkpoint, modules, optimizers, average, generators)
    steps = settings.images // settings.batch
    began, seen = time.monotonic(), 0
    for step in range(first, steps):
        share = rate(step, steps, settings.warmup, settings.decay_share)
        for optimizer, base in zip(optimizers, (settings.matrix_lr, settings.lr), strict=True):
            optimizer.param_groups[0]["lr"] = base * share
        chosen = torch.randint(settings.pool, (settings.batch,), generator=draws)
        x = images[chosen].to(accelerator.device).float() / 127.5 - 1
        with accelerator.autocast():
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=draws).to(x.device)
            back = vae.decode(posterior.mean + posterior.std * noise).sample
        error = back.float() - x
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
        loss = error.square().mean() + 0.15 * error.abs().mean() + 1e-7 * divergence
        accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_([p for p in vae.parameters() if p.requires_grad], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.update(step)
        seen += settings.batch
        if (step + 1) % settings.save_every == 0 or step + 1 == steps:
            save_checkpoint(checkpoint, step + 1, modules, optimizers, average, generators)
            average.swap()
            speed = seen / (time.monotonic() - began)
            report(
                f"vae step {step + 1}/{steps} loss {loss.item():.4f} {speed:.0f} images/s "
                f"psnr {psnr(vae, held_back):.2f} dB"
            )
            vae.save_pretrained(settings.out / "vae_raw")
            average.swap()
    average.swap()
    vae.requires_grad_(True)
    if not settings.decoder_only:
        standardise(vae.eval(), images[:2048].float().to(accelerator.device) / 127.5 - 1)
    report(f"vae done: psnr {psnr(vae, held_back):.2f} dB")
    vae.save_pretrained(settings.out / "vae")
    return settings.out / "vae"
