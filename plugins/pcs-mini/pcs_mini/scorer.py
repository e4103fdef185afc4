"""The offline scorer: a small CLIP that knows the world, never a held-out drawing of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from pcs_mini.generate import tokenise
from pcs_mini.networks import build_clip
from pcs_mini.plugin import folder
from pcs_mini.world.captions import caption
from pcs_mini.world.places import PLACES
from pcs_mini.world.roster import roster


class Scorer:
    """Mini-CLIP. Pictures are ``[n, 3, h, w]`` in 0..1 of any size; features have unit norm."""

    def __init__(self, weights: Path | None = None, device: str = "cpu") -> None:
        """Open the scorer beside the backbone in `weights` (the shipped folder if None)."""
        root = folder() if weights is None else Path(weights)
        config_file = root / "clip" / "open_clip_config.json"
        if not config_file.exists():
            raise FileNotFoundError(
                f"no scorer at {config_file}: reinstall pcs-mini, or run `pcs mini train clip`"
            )
        config = json.loads(config_file.read_text(encoding="utf-8"))["model_cfg"]
        self.model = build_clip(config)
        self.model.load_state_dict(load_file(root / "clip" / "open_clip_model.safetensors"))
        self.model = self.model.float().to(device).eval().requires_grad_(False)
        self.tokenizer = CLIPTokenizer.from_pretrained(root, subfolder="tokenizer")
        self.size: int = config["vision_cfg"]["image_size"]
        self.device = device
        self._banks: dict[tuple[str, ...], Tensor] = {}

    def image_features(self, images: Tensor) -> Tensor:
        """``[n, 128]`` of pictures; gradients flow if the pictures ask for them."""
        x = images.to(self.device, torch.float32)
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(
                x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True
            )
        return F.normalize(self.model.encode_image(x * 2 - 1).float(), dim=-1)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """``[n, 128]`` of prompts."""
        ids = tokenise(self.tokenizer, texts).to(self.device)
        return F.normalize(self.model.encode_text(ids).float(), dim=-1)

    def _bank(self, groups: Sequence[Sequence[str]]) -> Tensor:
        """One unit vector per group of prompts, the mean of theirs; remembered."""
        key = tuple(text for group in groups for text in group)
        if key not in self._banks:
            rows = [self.text_features(group).mean(0) for group in groups]
            self._banks[key] = F.normalize(torch.stack(rows), dim=-1)
        return self._banks[key]

    @torch.no_grad()
    def classify_nouns(self, images: Tensor) -> list[str]:
        """The trained noun that each picture looks most like."""
        nouns = list(roster().nouns)
        bank = self._bank([[caption(noun, place) for place in (None, *PLACES)] for noun in nouns])
        return [nouns[i] for i in (self.image_features(images) @ bank.T).argmax(1).tolist()]

    @torch.no_grad()
    def classify_places(self, images: Tensor, nouns: Sequence[str] | None = None) -> list[str]:
        """The place that each picture looks most like; `nouns` are averaged over, if given."""
        subjects = list(nouns or roster().nouns)
        bank = self._bank([[caption(noun, place) for noun in subjects] for place in PLACES])
        return [PLACES[i] for i in (self.image_features(images) @ bank.T).argmax(1).tolist()]

    def class_accuracy(self, images: Tensor, nouns: Sequence[str]) -> float:
        """Share of pictures classified as their noun, among the trained nouns, 0..1."""
        return _share(self.classify_nouns(images), nouns)

    def place_accuracy(self, images: Tensor, places: Sequence[str]) -> float:
        """Share of pictures classified as their place (a name of ``world.places.PLACES``), 0..1."""
        return _share(self.classify_places(images), places)

    @torch.no_grad()
    def subject_similarity(self, images: Tensor, references: Tensor) -> float:
        """Mean cosine of every picture with every reference, -1..1."""
        return float((self.image_features(images) @ self.image_features(references).T).mean())

    @torch.no_grad()
    def text_alignment(self, images: Tensor, prompts: Sequence[str]) -> float:
        """Mean cosine of each picture with its own prompt, -1..1."""
        if len(prompts) != len(images):
            raise ValueError(f"{len(images)} pictures but {len(prompts)} prompts: one per picture")
        return float((self.image_features(images) * self.text_features(prompts)).sum(1).mean())


def _share(found: Sequence[str], wanted: Sequence[str]) -> float:
    if len(found) != len(wanted):
        raise ValueError(f"{len(found)} pictures but {len(wanted)} names: one name per picture")
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / max(1, len(wanted))


@cache
def load() -> Scorer:
    """The shipped scorer, opened once."""
    return Scorer()
