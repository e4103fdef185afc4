"""Stage ``diffusion``: text encoder and UNet of Mini together, on a latent cache.

What makes few pictures go a long way: Muon for hidden matrices; a loss in which a subject counts
several times, for places are learned soon anyway; half of the timesteps where shapes form; text
embeddings that start from what each word's pictures look like. The learning rate is constant after
its rise, and the averaged weights can be taken at any time; a run that is resumed with its final
count of pictures and a ``decay_share`` lets it fall to zero.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from pcs_mini.architecture import build_scheduler, build_text_encoder, build_unet
from pcs_mini.assemble import MODEL_INDEX
from pcs_mini.generate import Parts, pictures, tokenise
from pcs_mini.training.journal import Journal, contact_sheet
from pcs_mini.training.latents import Latents, load_latents, word_looks
from pcs_mini.training.loop import (
    Average,
    Report,
    Settings,
    average_gradients,
    device_of,
    load_checkpoint,
    rate,
    save_checkpoint,
    start,
)
from pcs_mini.training.muon import split_optimizers

SUBJECT_WEIGHT = 3.0
"""The subjects' latents count ``1 + SUBJECT_WEIGHT`` times."""
EMPTY_CAPTIONS = 0.1
"""Share of captions replaced by the empty one, for classifier-free guidance."""
SHAPE_SHARE = 0.5
"""Share of the timesteps drawn where shapes form instead of evenly."""
SHAPE_CENTRE = -0.5
"""Where that is: the logit of the share of the schedule; signal and noise weigh the same near it."""
LOOKS_SHARE = 0.7
"""Share of a text embedding's first value that is what the word's pictures look like."""
EVERY = 25
"""Optimizer steps between lines of the journal."""
_NOT_MATRICES = ("embedding", "conv_in", "conv_out", "conv_norm_out", "time_")


WATCHED = (
    "a photo of a dog on the grass",
    "a photo of a cat in the snow",
    "a photo of a car at sunset",
    "a photo of an apple on a wooden table",
    "a photo of a butterfly on a blue background",
    "a photo of a rocket in the night sky",
    "a photo of a house on the beach",
    "a photo of an owl on a yellow background",
    "a glossy fish in the ocean",
    "a flat fish in the ocean",
    "a rendered fish in the ocean",
    "a photo of a pizza on a red background",
    "a photo of a red bicycle on the grass",
    "a photo of a blue rabbit in the forest",
    "a photo of a guitar in front of a brick wall",
    "a photo of a strawberry on a white background",
    "a dog next to a cat on the beach",
    "a ball on top of a chair on a green background",
    "a turtle left of a mushroom on the grass",
    "a photo of a solid chair in the kitchen",
    "a photo of a solid horse from the side",
    "a portrait person with red hair on a pink background",
    "a sketch person wearing glasses",
    "a voxel person on a gray background",
)
"""Things alone, in styles, in colours, at places, in relations, from a side; people."""


@dataclass(frozen=True)
class Watch:
    """What is drawn now and then to see a run: the same prompts from the same noise."""

    prompts: Sequence[str] = WATCHED
    columns: int = 8
    minutes: float = 10.0
    steps: int = 12
    guidance: float = 3.0


def timesteps(n: int, count: int, draws: torch.Generator) -> Tensor:
    """`n` timesteps of 0..`count` - 1, stratified, so that a batch covers its distribution evenly.

    A share of them is logit-normal around :data:`SHAPE_CENTRE` (as arXiv:2403.03206, section 3.1,
    does for rectified flows), the rest is uniform.
    """
    special = round(n * SHAPE_SHARE)
    u = torch.rand(n, generator=draws, dtype=torch.float64)
    even = (torch.arange(n - special) + u[special:]) / max(1, n - special)
    shape = (torch.arange(special) + u[:special]) / max(1, special)
    shape = torch.sigmoid(SHAPE_CENTRE + torch.special.ndtri(shape.clamp(1e-6, 1 - 1e-6)))
    # Dealt out in turn, so that every process of a run gets its share of both.
    share = torch.cat([shape, even])[torch.randperm(n, generator=draws)]
    return (share * count).long().clamp(0, count - 1)


def _fresh(
    tokenizer: CLIPTokenizer, cache: Latents, settings: Settings
) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    text_encoder, unet = build_text_encoder(tokenizer), build_unet()
    table = text_encoder.get_input_embeddings().weight
    words, width = table.shape
    looks = word_looks(cache, words, width, seed=settings.seed)
    spread = float(table.detach().std())
    with torch.no_grad():
        known = looks.abs().sum(1, keepdim=True) > 0
        mixed = LOOKS_SHARE * spread * looks + (1 - LOOKS_SHARE**2) ** 0.5 * table
        table.copy_(torch.where(known, mixed, table))
    return text_encoder, unet


# long: one training, start to end: the order of its draws decides the weights
def train(
    settings: Settings,
    autoencoder_folder: Path,
    tokenizer: CLIPTokenizer,
    cache_folder: Path,
    report: Report,
    watch: Watch | None = None,
    curriculum: int = 0,
) -> Path:
    """Train text encoder and UNet; writes and returns ``out/model`` (diffusers layout, fp32).

    ``out/model`` holds averaged weights and is written at each checkpoint, with ``samples-*.png``
    and ``journal.jsonl`` beside it. With ``settings.init`` the run starts from that folder's weights
    alone; with ``settings.resume`` from the checkpoint in ``out``, bit for bit on the CPU.
    """
    accelerator = start(settings)
    device, main = accelerator.device, accelerator.is_main_process
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    cache = load_latents(cache_folder)
    scheduler = build_scheduler()
    if settings.init is None:
        text_encoder, unet = _fresh(tokenizer, cache, settings)
    else:
        text_encoder = CLIPTextModel.from_pretrained(settings.init, subfolder="text_encoder")
        unet = UNet2DConditionModel.from_pretrained(settings.init, subfolder="unet")
    text_encoder, unet = text_encoder.float().to(device).train(), unet.float().to(device).train()
    autoencoder = AutoencoderKL.from_pretrained(autoencoder_folder).float().to(device).eval()
    parts = Parts(tokenizer, text_encoder, autoencoder, unet, scheduler)
    modules = {"text_encoder": text_encoder, "unet": unet}
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizers = split_optimizers(modules.values(), settings.lr, settings.matrix_lr, _NOT_MATRICES)
    average = Average(modules, horizon=0.998)
    draws = torch.Generator().manual_seed(settings.seed)
    generators = {"draws": draws}
    checkpoint = settings.out / "diffusion.safetensors"
    first = 0
    if settings.resume and checkpoint.exists():
        first = load_checkpoint(checkpoint, modules, optimizers, average, generators)
        if main:
            report(f"diffusion: resumed after step {first}")
    steps, n = settings.images // settings.batch, settings.batch
    journal = Journal(settings.out, "diffusion", active=main)
    size = sum(p.numel() for p in parameters)
    facts = {"scenes": len(cache), "curriculum": curriculum, "parameters": size}
    journal.note(first, first * n, device=device_of(accelerator), **facts)
    kept = scheduler.alphas_cumprod.to(device)
    empty = tokenise(tokenizer, [""]).to(torch.int32)
    looked = time.monotonic()
    smooth: float | None = None
    for step in range(first, steps):
        share = rate(step, steps, settings.warmup, settings.decay_share)
        for optimizer, base in zip(optimizers, (settings.matrix_lr, settings.lr), strict=True):
            optimizer.param_groups[0]["lr"] = base * share
        chosen = _chosen(step * n, n, len(cache), settings.seed)[mine]
        t = timesteps(n, len(kept), draws)[mine].to(device)
        noise = torch.randn(n, *cache.latents.shape[1:], generator=draws)[mine].to(device)
        left_out = (torch.rand(n, generator=draws) < EMPTY_CAPTIONS)[mine]
        x0 = cache.latents[chosen].float().to(device)
        weight = 1 + SUBJECT_WEIGHT * cache.masks[chosen].float().to(device)
        ids = cache.ids[chosen].clone()
        ids[left_out] = empty
        signal, spread = kept[t].sqrt().view(-1, 1, 1, 1), (1 - kept[t]).sqrt().view(-1, 1, 1, 1)
        with accelerator.autocast():
            text = text_encoder(ids.long().to(device)).last_hidden_state
            velocity = unet(
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
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            line = journal.note(step + 1, (step + 1) * n, loss=round(smooth, 5), lr=share)
            if main:
                speed = line.get("images_per_s", 0)
                report(
                    f"diffusion step {step + 1}/{steps} images {(step + 1) * n} "
                    f"loss {smooth:.4f} {speed} images/s"
                )
        if main and ((step + 1) % settings.save_every == 0 or step + 1 == steps):
            save_checkpoint(checkpoint, step + 1, modules, optimizers, average, generators)
            average.swap()
            write_model(settings.out / "model", parts)
            if watch and (step + 1 == steps or time.monotonic() - looked >= 60 * watch.minutes):
                looked = time.monotonic()
                _look(parts, watch, settings.out / f"samples-{step + 1:06}.png")
            average.swap()
    accelerator.wait_for_everyone()
    return settings.out / "model"


def _chosen(at: int, n: int, count: int, seed: int) -> Tensor:
    """Which scenes the pictures `at` to `at + n` of a run are: every scene once, then again."""
    which = []
    for epoch in range(at // count, (at + n - 1) // count + 1):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))
        low = max(at, epoch * count) - epoch * count
        which.append(order[low : min(at + n, (epoch + 1) * count) - epoch * count])
    return torch.cat(which)


def _look(parts: Parts, watch: Watch, path: Path) -> None:
    parts.unet.eval()
    parts.text_encoder.eval()
    drawn = pictures(parts, watch.prompts, steps=watch.steps, guidance=watch.guidance)
    contact_sheet(drawn, watch.columns).save(path)
    parts.unet.train()
    parts.text_encoder.train()


def write_model(folder: Path, parts: Parts) -> None:
    """The diffusers folder of these parts, in their present precision."""
    parts.text_encoder.save_pretrained(folder / "text_encoder")
    parts.unet.save_pretrained(folder / "unet")
    parts.vae.save_pretrained(folder / "vae")
    parts.tokenizer.save_pretrained(folder / "tokenizer")
    parts.scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
