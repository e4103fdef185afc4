"""Mini-CLIP: pictures and captions in one space, trained on the world without what it holds out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from transformers import CLIPTokenizer

from pcs_mini.generate import tokenise
from pcs_mini.metrics import stored
from pcs_mini.metrics.trunk import prepare
from pcs_mini.plugin import folder as weights_folder

CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 16, "head_width": 64},
    "text_cfg": {
        "context_length": 40,
        "vocab_size": 0,
        "width": 128,
        "heads": 4,
        "layers": 2,
        "pool_type": "argmax",
    },
}
"""open_clip's model configuration; ``vocab_size`` is filled in from the tokenizer."""


def build_clip(config: Mapping[str, Any]) -> CLIP:
    """The two towers: a small ResNet on 64 px pictures and a small text transformer."""
    vision = {**config["vision_cfg"], "layers": tuple(config["vision_cfg"]["layers"])}
    return CLIP(
        config["embed_dim"],
        CLIPVisionCfg(**vision),
        CLIPTextCfg(**config["text_cfg"]),
    )


class Clip:
    """Feature model ``mini.clip``. Pictures are ``[n, 3, h, w]`` in 0..1; features have unit norm."""

    def __init__(self, net: CLIP, tokenizer: CLIPTokenizer) -> None:
        self.net, self.tokenizer = net, tokenizer

    def image_features(self, images: Tensor) -> Tensor:
        """``[n, 128]``; gradients flow if the pictures ask for them."""
        x = prepare(images.to(self.net.logit_scale.device))
        return F.normalize(self.net.encode_image(x).float(), dim=-1)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """``[n, 128]`` of prompts."""
        ids = tokenise(self.tokenizer, texts).to(self.net.logit_scale.device)
        return F.normalize(self.net.encode_text(ids).float(), dim=-1)

    @torch.no_grad()
    def classify(self, images: Tensor, prompts: Sequence[str]) -> list[int]:
        """The prompt that each picture is closest to, as its number."""
        return (self.image_features(images) @ self.text_features(prompts).T).argmax(1).tolist()

    @torch.no_grad()
    def subject_similarity(self, images: Tensor, references: Tensor) -> float:
        """Mean cosine of every picture with every reference, -1..1."""
        return float((self.image_features(images) @ self.image_features(references).T).mean())

    @torch.no_grad()
    def text_alignment(self, images: Tensor, prompts: Sequence[str]) -> float:
        """Mean cosine of each picture with its own prompt, -1..1.

        Raises
        ------
        ValueError
            If there is not one prompt per picture.
        """
        if len(prompts) != len(images):
            raise ValueError(f"{len(images)} pictures but {len(prompts)} prompts: one per picture")
        return float((self.image_features(images) * self.text_features(prompts)).sum(1).mean())


def open_clip(folder: Path | None = None, device: str = "cpu") -> Clip:
    """Mini-CLIP of a folder of metrics, the shipped one if None, which reads with the backbone's tokenizer."""
    net, _ = stored.read("clip", folder, lambda config: build_clip(config["model_cfg"]))
    root = (stored.shipped() if folder is None else Path(folder)) / "clip"
    if not (root / stored.TOKENIZER).exists():
        root = weights_folder()
    return Clip(net.to(device), CLIPTokenizer.from_pretrained(root, subfolder=stored.TOKENIZER))


@cache
def load() -> Clip:
    """The shipped Mini-CLIP, opened once."""
    return open_clip()
