"""Stage ``denoiser``: text encoder and UNet together, on cached latents of a rendered pool."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from pcs_mini.generate import tokenise
from pcs_mini.networks import build_scheduler, build_text_encoder, build_unet
from pcs_mini.tokenizer import build_tokenizer
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
from pcs_mini.world.pool import render_pool

SUBJECT_WEIGHT = 2.0
"""The subject's latents count ``1 + SUBJECT_WEIGHT`` times: places are learned soon anyway."""
EMPTY_CAPTIONS = 0.1
"""Share of captions replaced by the empty one, for classifier-free guidance."""
_NOT_MATRICES = ("embedding", "conv_in", "conv_out", "conv_norm_out", "time_")


@dataclass
class Cache:
    """The pool as the denoiser sees it."""

    latents: Tensor
    """``[n, 4, 16, 16]``, half precision, zero mean and unit variance per channel."""
    masks: Tensor
    """``[n, 1, 16, 16]``, half precision, share of each cell that is subject."""
    ids: Tensor
    """``[n, length]``."""


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, settings: Settings, report: Report) -> Cache:
    """Render the pool and encode it; kept in ``out`` as safetensors for the next start."""
    from safetensors.torch import load_file, save_file

    path = settings.out / f"latents-{settings.pool}-{settings.seed}.safetensors"
    if not path.exists():
        pool = render_pool(settings.pool, settings.seed)
        report(f"denoiser: {settings.pool} pictures rendered")
        latents = []
        for at in range(0, settings.pool, 100):
            x = torch.from_numpy(pool.images[at : at + 100]).permute(0, 3, 1, 2)
            x = x.to(vae.device).float() / 127.5 - 1
            with torch.autocast(vae.device.type, torch.bfloat16):
                z = vae.encode(x).latent_dist.mean
            latents.append((z.float() * vae.config.scaling_factor).half().cpu())
        covered = torch.from_numpy(pool.masks)[:, None].float() / 255
        cell = covered.shape[-1] // latents[0].shape[-1]
        save_file(
            {
                "latents": torch.cat(latents).contiguous(),
                "masks": torch.nn.functional.avg_pool2d(covered, cell).half(),
                "ids": tokenise(build_tokenizer(), pool.captions).to(torch.int32),
            },
            path,
        )
        report("denoiser: latents cached")
    return Cache(**load_file(path))


def train(settings: Settings, vae_folder: Path, report: Report) -> Path:
    """Train text encoder and UNet; writes and returns the folder ``out/model`` (fp32, averaged).

    With ``settings.init`` it starts from that folder's weights alone; with ``settings.resume``
    from the checkpoint in ``out``, bit for bit on the CPU.
    """
    accelerator = start(settings)
    device = accelerator.device
    share_of_batch = slice(accelerator.process_index, None, accelerator.num_processes)
    vae = AutoencoderKL.from_pretrained(vae_folder).float().to(device).eval()
    with accelerator.main_process_first():
        cache = encode_pool(vae, settings, report)
    tokenizer, scheduler = build_tokenizer(), build_scheduler()
    if settings.init is None:
        text_encoder, unet = build_text_encoder(tokenizer), build_unet()
    else:
        text_encoder = CLIPTextModel.from_pretrained(settings.init, subfolder="text_encoder")
        unet = UNet2DConditionModel.from_pretrained(settings.init, subfolder="unet")
    text_encoder, unet = text_encoder.float().to(device).train(), unet.float().to(device).train()
    modules = {"text_encoder": text_encoder, "unet": unet}
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizers = split_optimizers(modules.values(), settings.lr, settings.matrix_lr, _NOT_MATRICES)
    average = Average(modules, horizon=0.998)
    draws = torch.Generator().manual_seed(settings.seed)
    generators = {"draws": draws}
    checkpoint = settings.out / "denoiser.safetensors"
    first = 0
    if settings.resume and checkpoint.exists():
        first = load_checkpoint(checkpoint, modules, optimizers, average, generators)
        report(f"denoiser: resumed after step {first}")
    steps = settings.images // settings.batch
    kept = scheduler.alphas_cumprod.to(device)
    empty = tokenise(tokenizer, [""]).to(torch.int32)
    network = torch.compile(unet) if settings.compile else unet
    began, seen, smooth = time.monotonic(), 0, 0.0
    for step in range(first, steps):
        share = rate(step, steps, settings.warmup, settings.decay_share)
        for optimizer, base in zip(optimizers, (settings.matrix_lr, settings.lr), strict=True):
            optimizer.param_groups[0]["lr"] = base * share
        n = settings.batch
        chosen = torch.randint(len(cache.ids), (n,), generator=draws)
        # One timestep in each of n equal strata: the same distribution, a calmer gradient.
        t = ((torch.arange(n) + torch.rand(n, generator=draws)) / n * len(kept)).long()
        noise = torch.randn(n, *cache.latents.shape[1:], generator=draws)
        left_out = torch.rand(n, generator=draws) < EMPTY_CAPTIONS
        chosen, left_out = chosen[share_of_batch], left_out[share_of_batch]
        t, noise = t[share_of_batch].to(device), noise[share_of_batch].to(device)
        x0 = cache.latents[chosen].float().to(device)
        weight = 1 + SUBJECT_WEIGHT * cache.masks[chosen].float().to(device)
        ids = cache.ids[chosen].clone()
        ids[left_out] = empty
        signal, spread = kept[t].sqrt().view(-1, 1, 1, 1), (1 - kept[t]).sqrt().view(-1, 1, 1, 1)
        with accelerator.autocast():
            text = text_encoder(ids.long().to(device)).last_hidden_state
            velocity = network(
                signal * x0 + spread * noise, t, encoder_hidden_states=text, return_dict=False
            )[0]
        error = (velocity.float() - (signal * noise - spread * x0)).square()
        loss = (error * weight).mean()
        accelerator.backward(loss)
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.update(step)
        seen += n
        smooth = loss.item() if not smooth else 0.98 * smooth + 0.02 * loss.item()
        if (step + 1) % 50 == 0 and accelerator.is_main_process:
            speed = seen / (time.monotonic() - began)
            report(
                f"denoiser step {step + 1}/{steps} images {(step + 1) * n} "
                f"loss {smooth:.4f} {speed:.1f} images/s lr {settings.lr * share:.2e}"
            )
        due = (step + 1) % settings.save_every == 0 or step + 1 == steps
        if due and accelerator.is_main_process:
            save_checkpoint(checkpoint, step + 1, modules, optimizers, average, generators)
            average.swap()
            write_model(settings.out / "model", text_encoder, unet, vae)
            average.swap()
    return settings.out / "model"


def write_model(
    folder: Path,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
) -> None:
    """The diffusers folder of these parts, in their present precision."""
    text_encoder.save_pretrained(folder / "text_encoder")
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    build_tokenizer().save_pretrained(folder / "tokenizer")
    build_scheduler().save_pretrained(folder / "scheduler")
