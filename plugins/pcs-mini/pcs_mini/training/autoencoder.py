"""Stage ``autoencoder``: 128 px pictures to 16x16x8 latents of zero mean, unit variance.

The network is convolutional, so most steps see crops: as many pixels a step, four times as many
pictures. Near the end of the run it sees whole pictures, whose borders and group statistics are
those of inference. A share of the steps decodes latents that were scaled down, and compares with
the picture scaled down alike (EQ-VAE, arXiv:2502.09509): latents that commute with scaling are
easier for a denoiser.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from pcs_mini.architecture import build_autoencoder
from pcs_mini.training.journal import Journal
from pcs_mini.training.loop import (
    Average,
    Report,
    Settings,
    average_gradients,
    load_checkpoint,
    rate,
    save_checkpoint,
    start,
)
from pcs_mini.training.muon import split_optimizers

CROP = 64
"""Side of the crops, in pixels; a step sees ``batch`` of them, or as many pixels in larger ones."""
WHOLE_SHARE = 0.15
"""Share of the run, at its end, that sees whole pictures only."""
SCALED_SHARE = 0.25
"""Share of the crop steps that decode scaled latents."""
KL_WEIGHT = 1e-7
ABSOLUTE_WEIGHT = 0.15
DECODER_NOISE = 0.05
"""With ``decoder_only``: noise on the latents, in standard deviations, as a denoiser leaves some."""
_HELD_BACK = 128
_NOT_MATRICES = ("conv_in", "conv_out", "quant_conv")


def crops(
    images: NDArray[np.uint8], n: int, side: int, draws: torch.Generator, mine: slice
) -> Tensor:
    """`n` random crops, half of them mirrored, of which ``[mine]`` are cut: ``[m, 3, side, side]``.

    Values are -1..1. All `n` places are drawn, so every process of a run draws the same.
    """
    h, w = images.shape[1:3]
    which = torch.randint(len(images), (n,), generator=draws)[mine].tolist()
    tops = torch.randint(h - side + 1, (n,), generator=draws)[mine].tolist()
    lefts = torch.randint(w - side + 1, (n,), generator=draws)[mine].tolist()
    mirrored = (torch.rand(n, generator=draws) < 0.5)[mine].tolist()
    cut = np.stack(
        [
            images[i, y : y + side, x : x + side][:, :: -1 if flip else 1]
            for i, y, x, flip in zip(which, tops, lefts, mirrored, strict=True)
        ]
    )
    return torch.from_numpy(cut).permute(0, 3, 1, 2).float() / 127.5 - 1


def _scaled(latents: Tensor, x: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents and pictures, both scaled by the same share of latent cells, half to whole."""
    size = latents.shape[-1]
    cells = int(torch.randint(size // 2, size, (1,), generator=draws))
    factor = x.shape[-1] // size
    small = F.interpolate(latents, (cells, cells), mode="bilinear", antialias=True)
    return small, F.interpolate(x, (cells * factor,) * 2, mode="bilinear", antialias=True)


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


# long: one training, start to end: the order of its draws decides the weights
def train(settings: Settings, images: NDArray[np.uint8], report: Report) -> Path:
    """Train on pictures ``[n, 128, 128, 3]``; writes and returns ``out/autoencoder``.

    The folder has the diffusers layout and holds averaged fp32 weights. ``settings.images`` counts
    crops. The last pictures (at most 128, and an eighth) are held back to measure. With
    ``settings.decoder_only`` the encoder stays, and so do all latents made with it. With
    ``settings.resume`` a run goes on from its checkpoint, bit for bit on the CPU.
    """
    accelerator = start(settings)
    device = accelerator.device
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    reserved = min(_HELD_BACK, len(images) // 8)
    seen, kept_back = images[: len(images) - reserved], images[len(images) - reserved :]
    held_back = torch.from_numpy(np.array(kept_back)).permute(0, 3, 1, 2).float() / 127.5 - 1
    held_back = held_back.to(device)
    if settings.init is None:
        autoencoder = build_autoencoder()
    else:
        autoencoder = AutoencoderKL.from_pretrained(settings.init).float()
    autoencoder = autoencoder.to(device).train()
    if settings.decoder_only:
        autoencoder.requires_grad_(False)
        autoencoder.decoder.requires_grad_(True)
    learning = autoencoder.decoder if settings.decoder_only else autoencoder
    parameters = list(learning.parameters())
    modules = {"autoencoder": autoencoder}
    optimizers = split_optimizers([learning], settings.lr, settings.matrix_lr, _NOT_MATRICES)
    average = Average(modules)
    draws = torch.Generator().manual_seed(settings.seed)
    generators = {"draws": draws}
    checkpoint = settings.out / "autoencoder.safetensors"
    first = 0
    if settings.resume and checkpoint.exists():
        first = load_checkpoint(checkpoint, modules, optimizers, average, generators)
        report(f"autoencoder: resumed after step {first}")
    steps = settings.images // settings.batch
    journal = Journal(settings.out, "autoencoder", active=accelerator.is_main_process)
    smooth: float | None = None
    whole = images.shape[1]
    for step in range(first, steps):
        share = rate(step, steps, settings.warmup, settings.decay_share)
        for optimizer, base in zip(optimizers, (settings.matrix_lr, settings.lr), strict=True):
            optimizer.param_groups[0]["lr"] = base * share
        at_end = step >= (1 - WHOLE_SHARE) * steps
        large = float(torch.rand((), generator=draws)) < 0.3
        side = whole if at_end else min(whole, CROP * 3 // 2 if large else CROP)
        n = max(accelerator.num_processes, round(settings.batch * (CROP / side) ** 2))
        scaled = float(torch.rand((), generator=draws)) < SCALED_SHARE and not at_end
        scaled = scaled and not settings.decoder_only
        x = crops(seen, n, side, draws, mine).to(device)
        with accelerator.autocast():
            posterior = autoencoder.encode(x).latent_dist
            cells = posterior.mean.shape[-1]
            noise = torch.randn(n, *posterior.mean.shape[1:], generator=draws)[mine].to(device)
            spread = DECODER_NOISE if settings.decoder_only else posterior.std
            z = posterior.mean + spread * noise
            if scaled:
                z, x = _scaled(z.float(), x, draws)
            back = autoencoder.decode(z).sample
        error = back.float() - x
        loss = error.square().mean() + ABSOLUTE_WEIGHT * error.abs().mean()
        if not settings.decoder_only:
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
            # Per element times the count of elements of a whole picture, whatever the crop.
            elements = posterior.mean.shape[1] * (cells * whole / side) ** 2
            loss = loss + KL_WEIGHT * elements * divergence
        accelerator.backward(loss)
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.update(step)
        if not scaled:
            now = loss.item()
            smooth = now if smooth is None else 0.98 * smooth + 0.02 * now
        if (step + 1) % settings.save_every == 0 or step + 1 == steps:
            average.swap()
            quality = psnr(autoencoder, held_back)
            if accelerator.is_main_process:
                autoencoder.save_pretrained(settings.out / "autoencoder_raw")
            average.swap()
            line = journal.note(
                step + 1, (step + 1) * settings.batch, loss=smooth, psnr=quality, lr=share
            )
            if accelerator.is_main_process:
                save_checkpoint(checkpoint, step + 1, modules, optimizers, average, generators)
                report(
                    f"autoencoder step {step + 1}/{steps} loss {smooth or 0:.4f} "
                    f"psnr {quality:.2f} dB {line.get('images_per_s', 0)} crops/s"
                )
    average.swap()
    finish(autoencoder, seen, settings)
    if accelerator.is_main_process:
        autoencoder.save_pretrained(settings.out / "autoencoder")
        report(f"autoencoder done: psnr {psnr(autoencoder, held_back):.2f} dB")
    accelerator.wait_for_everyone()
    return settings.out / "autoencoder"


def finish(autoencoder: AutoencoderKL, images: NDArray[np.uint8], settings: Settings) -> None:
    """Ready for inference; latents are standardised on up to 1024 pictures unless they are fixed."""
    autoencoder.eval().requires_grad_(True)
    if settings.decoder_only:
        return
    chosen = images[:: max(1, len(images) // 1024)][:1024]
    x = torch.from_numpy(np.array(chosen)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        standardise(autoencoder, x.to(autoencoder.device))
