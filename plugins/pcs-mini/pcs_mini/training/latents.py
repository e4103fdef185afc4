"""The latent cache: rendered scenes as a denoiser sees them, in numbered safetensors files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from pcs_core.errors import PcsError
from pcs_mini.architecture import PICTURE_SIZE
from pcs_mini.generate import tokenise
from pcs_mini.training.loop import Report
from pcs_mini.world.assets import Assets
from pcs_mini.world.curriculum import curriculum_population
from pcs_mini.world.population import open_population
from pcs_mini.world.scene import draw

_PATTERN = "latents-*.safetensors"
_KEYS = ("latents", "masks", "ids")
_BATCH = 64
SHARD = 2000
"""Scenes in one file."""


@dataclass(frozen=True)
class Latents:
    """Scenes of a cache."""

    latents: Tensor
    """``[n, 8, 16, 16]``, half precision, zero mean and unit variance per channel."""
    masks: Tensor
    """``[n, 1, 16, 16]``, half precision: share of each cell that is a subject."""
    ids: Tensor
    """``[n, length]``, int32."""

    def __len__(self) -> int:
        return len(self.ids)


def render(
    assets: Assets,
    first: int,
    count: int,
    seed: int = 0,
    *,
    curriculum: int = 0,
    pairs: float | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[str]]:
    """Training scenes `first` to `first + count` of a seed, each from its own random numbers.

    Every second one shows a single subject, whatever the world's own shares are: what things look
    like is learned from those. In a ``stage`` three of four do, of its part of the population. Of those
    that may show more, only a third do: ``pairs`` gives the share that shows two, and one the rest.
    Pictures ``[n, 128, 128, 3]``, masks of all subjects ``[n, 128, 128]`` (255 = subject), captions.
    """
    population = curriculum_population(open_population(assets), curriculum)
    images = np.empty((count, PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    masks = np.zeros((count, PICTURE_SIZE, PICTURE_SIZE), np.uint8)
    captions = []
    for i in range(count):
        rng = np.random.default_rng((seed, first + i))
        subjects = 1 if (first + i) % (4 if curriculum else 2) else None
        if pairs is not None:
            subjects = 2 if rng.random() < pairs else 1
        scene = draw(rng, assets, population, size=PICTURE_SIZE, count=subjects)
        images[i] = scene.image
        for figure in scene.figures:
            np.maximum(masks[i], figure.mask, out=masks[i])
        captions.append(scene.caption)
    return images, masks, captions


def make_latents(
    assets: Assets,
    autoencoder_folder: Path,
    tokenizer: CLIPTokenizer,
    folder: Path,
    count: int,
    report: Report,
    *,
    seed: int = 0,
    share: slice = slice(None),
    curriculum: int = 0,
    pairs: float | None = None,
) -> None:
    """Render and encode `count` scenes into `folder`; files that are there already stay.

    Several processes split the work: each makes ``range(files)[share]``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    autoencoder = AutoencoderKL.from_pretrained(autoencoder_folder).float().eval()
    for number in range(-(-count // SHARD))[share]:
        path = shard_path(folder, number)
        if path.exists():
            continue
        first = number * SHARD
        scenes = render(
            assets, first, min(SHARD, count - first), seed, curriculum=curriculum, pairs=pairs
        )
        encode_shard(autoencoder, tokenizer, *scenes, path)
        report(f"latents: {path.name} of {-(-count // SHARD)}")


@torch.no_grad()
def encode_shard(
    autoencoder: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    captions: Sequence[str],
    path: Path,
) -> None:
    """Encode pictures ``[n, s, s, 3]`` with their masks ``[n, s, s]`` (255 = subject) to `path`."""
    encoded = []
    for at in range(0, len(images), _BATCH):
        x = torch.from_numpy(np.array(images[at : at + _BATCH])).permute(0, 3, 1, 2)
        x = x.to(autoencoder.device).float() / 127.5 - 1
        with torch.autocast(autoencoder.device.type, torch.bfloat16):
            z = autoencoder.encode(x).latent_dist.mean
        encoded.append((z.float() * autoencoder.config.scaling_factor).half().cpu())
    latents = torch.cat(encoded).contiguous()
    covered = torch.from_numpy(np.array(masks))[:, None].float() / 255
    share = F.avg_pool2d(covered, covered.shape[-1] // latents.shape[-1]).half()
    ids = tokenise(tokenizer, captions).to(torch.int32)
    fresh = path.with_suffix(".tmp")
    save_file({"latents": latents, "masks": share, "ids": ids}, fresh)
    os.replace(fresh, path)


def shard_path(folder: Path, number: int) -> Path:
    """Where shard `number` of the cache in `folder` lies."""
    return folder / f"latents-{number:05}.safetensors"


def load_latents(folder: Path) -> Latents:
    """All shards of a folder, in the order of their numbers.

    :raises PcsError: if the folder holds none.
    """
    paths = sorted(folder.glob(_PATTERN))
    if not paths:
        raise PcsError(f"{folder}: no {_PATTERN}; make them with `pcs mini train latents`")
    shards = [load_file(path) for path in paths]
    return Latents(*(torch.cat([shard[key] for shard in shards]) for key in _KEYS))


def word_looks(cache: Latents, vocabulary: int, width: int, seed: int = 0) -> Tensor:
    """What the pictures named by each token have in common, ``[vocabulary, width]``.

    A token's features are the mean latents of the subjects and of the places in its pictures,
    against the mean of all, seen through a fixed random projection and scaled to unit variance.
    Rows of tokens that no caption holds are zero; those of rare ones are shrunk. Text embeddings
    that start here give words of things that look alike similar values from the first step on.
    """
    totals = torch.zeros(vocabulary, 0)
    seen = torch.zeros(vocabulary)
    for at in range(0, len(cache), 2048):
        z = cache.latents[at : at + 2048].float()
        mask = cache.masks[at : at + 2048].float()
        features = torch.cat(
            [F.adaptive_avg_pool2d(part, 4).flatten(1) for part in (z * mask, z * (1 - mask))], 1
        )
        if not totals.shape[1]:
            totals = torch.zeros(vocabulary, features.shape[1])
        present = torch.zeros(len(features), vocabulary)
        present.scatter_(1, cache.ids[at : at + 2048].long(), 1.0)
        totals += present.T @ features
        seen += present.sum(0)
    # Special tokens are in every caption, so their mean is that of all pictures.
    overall = totals[seen.argmax()] / seen.max()
    looks = totals / seen.clamp(min=1)[:, None] - overall
    looks *= (seen / (seen + 8))[:, None] * (seen > 0)[:, None]
    spread = looks.square().mean(0).sqrt().clamp(min=1e-6)
    draws = torch.Generator().manual_seed(seed)
    projected = (looks / spread) @ torch.randn(looks.shape[1], width, generator=draws)
    length = projected.square().mean(1, keepdim=True).sqrt()
    typical = length[seen > 0].median().clamp(min=1e-6)
    return projected / torch.maximum(length, typical)
