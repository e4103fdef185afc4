"""Stage ``clip``: the scorer, on pairs of views of the same subject at two places."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pcs_mini.generate import tokenise
from pcs_mini.networks import CLIP_CONFIG, build_clip
from pcs_mini.tokenizer import build_tokenizer
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
from pcs_mini.world.captions import TEMPLATES, caption
from pcs_mini.world.compose import compose
from pcs_mini.world.places import COLOURS, SCENES
from pcs_mini.world.roster import roster

_NOT_MATRICES = ("embedding", "conv1.weight", "projection")
_INSTANCE_TEMPERATURE = 0.1
_SCORER_ONLY = 0.35
"""Share of subjects drawn from the nouns that only the scorer sees."""


def _views(
    rng: np.random.Generator, n: int
) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """`n` subjects, two views each.

    Pictures ``[2n, s, s, 3]``, captions, facts of the pictures ``[2n, 4]`` (noun, style, colour,
    place as numbers) and facts that the captions state (-1 = left open).
    """
    people = roster()
    nouns = [*people.nouns, *people.scorer_nouns]
    styles, colours = list(people.styles), ["", *COLOURS]
    places = [*COLOURS, *SCENES]
    images, texts, facts, stated = [], [], [], []
    for _ in range(n):
        if rng.random() < _SCORER_ONLY:
            noun = len(people.nouns) + int(rng.integers(len(people.scorer_nouns)))
        else:
            noun = int(rng.integers(len(people.nouns)))
        style = int(rng.integers(len(styles)))
        colour = int(rng.integers(1, len(colours))) if rng.random() < 0.2 else 0
        for _ in range(2):
            pool = range(len(COLOURS)) if rng.random() < 0.5 else range(len(COLOURS), len(places))
            place = int(rng.choice([p for p in pool if p + 1 != colour]))
            picture, _ = compose(
                rng,
                nouns[noun],
                styles[style],
                places[place],
                colour=colours[colour],
                scales=(0.5, 0.95),
            )
            images.append(picture)
            facts.append((noun, style, colour, place))
            say_style, say_place = rng.random() < 0.4, rng.random() < 0.75
            texts.append(
                caption(
                    nouns[noun],
                    places[place] if say_place else None,
                    styles[style] if say_style else "",
                    colours[colour],
                    template=TEMPLATES[rng.integers(len(TEMPLATES))],
                )
            )
            stated.append(
                (
                    noun,
                    style if say_style else -1,
                    colour if colour else -1,
                    place if say_place else -1,
                )
            )
    return np.stack(images), texts, np.array(facts), np.array(stated)


def _degrade(x: Tensor, draws: torch.Generator) -> Tensor:
    """Blur and noise some pictures, as a decoder does; ``[n, 3, h, w]`` in 0..1."""
    n = len(x)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(n, 1, 1, 1, generator=draws) * (
        torch.rand(n, 1, 1, 1, generator=draws) < 0.6
    )
    noise = torch.randn(x.shape, generator=draws) * 0.05 * torch.rand(n, 1, 1, 1, generator=draws)
    return (x.lerp(soft, share.to(x.device)) + noise.to(x.device)).clamp(0, 1)


def _positives(logits: Tensor, match: Tensor) -> Tensor:
    """Mean negative log-probability of the matching columns; rows without a match are left out."""
    some = match.any(1)
    logits, match = logits[some], match[some].float()
    return -((logits.log_softmax(1) * match).sum(1) / match.sum(1)).mean()


def train(settings: Settings, report: Report) -> Path:
    """Train and return the folder ``out/clip``: ``open_clip_config.json`` and fp16 safetensors."""
    accelerator = start(settings)
    device = accelerator.device
    tokenizer = build_tokenizer()
    config = json.loads(json.dumps(CLIP_CONFIG))
    config["text_cfg"]["vocab_size"] = len(tokenizer)
    clip = build_clip(config).float().to(device).train()
    modules = {"clip": clip}
    optimizers = split_optimizers([clip], settings.lr, settings.matrix_lr, _NOT_MATRICES)
    average = Average(modules, horizon=0.995)
    draws = torch.Generator().manual_seed(settings.seed)
    generators = {"draws": draws}
    checkpoint = settings.out / "clip.safetensors"
    first = 0
    if settings.resume and checkpoint.exists():
        first = load_checkpoint(checkpoint, modules, optimizers, average, generators)
    steps = settings.images // settings.batch
    began, seen = time.monotonic(), 0
    for step in range(first, steps):
        share = rate(step, steps, settings.warmup, settings.decay_share)
        for optimizer, base in zip(optimizers, (settings.matrix_lr, settings.lr), strict=True):
            optimizer.param_groups[0]["lr"] = base * share
        rng = np.random.default_rng((settings.seed, step))
        pixels, texts, facts, stated = _views(rng, settings.batch // 2)
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().to(device) / 255
        x = _degrade(x, draws)
        ids = tokenise(tokenizer, texts).to(device)
        fact, said = torch.from_numpy(facts).to(device), torch.from_numpy(stated).to(device)
        true = ((said[None] == fact[:, None]) | (said[None] < 0)).all(-1)
        same = (fact[:, None, :3] == fact[None, :, :3]).all(-1)
        same &= ~torch.eye(len(same), dtype=torch.bool, device=device)
        with accelerator.autocast():
            seen_features = clip.encode_image(x * 2 - 1, normalize=True)
            read_features = clip.encode_text(ids, normalize=True)
        image, text = seen_features.float(), read_features.float()
        logits = clip.logit_scale.exp().clamp(max=100) * image @ text.T
        apart = (image @ image.T / _INSTANCE_TEMPERATURE).masked_fill(
            torch.eye(len(image), dtype=torch.bool, device=device), -1e4
        )
        loss = (
            _positives(logits, true) + _positives(logits.T, true.T) + 0.5 * _positives(apart, same)
        )
        accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.update(step)
        seen += settings.batch
        if (step + 1) % 50 == 0:
            speed = seen / (time.monotonic() - began)
            report(f"clip step {step + 1}/{steps} loss {loss.item():.3f} {speed:.0f} images/s")
        if (step + 1) % settings.save_every == 0 or step + 1 == steps:
            save_checkpoint(checkpoint, step + 1, modules, optimizers, average, generators)
    average.swap()
    folder = settings.out / "clip"
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config}, indent=2) + "\n"
    )
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in clip.state_dict().items()}
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
        folder / "open_clip_model.safetensors",
    )
    return folder
