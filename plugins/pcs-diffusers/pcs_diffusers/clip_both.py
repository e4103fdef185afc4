"""Both towers of CLIP as a feature model: pictures and texts in one space (arXiv:2103.00020)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_core.errors import InputError
from pcs_diffusers.vision import LARGE, ClipVision

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "PCS_CLIP"


class ClipBoth(ClipVision):
    """Frozen towers whose features have unit norm and compare by their cosine."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        vision = model.config.vision_config
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.size = int(vision.image_size)
        self.width = int(model.config.projection_dim)

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """Return features [n width] of images [n 3 h w] in [0, 1]."""
        read = self.model.vision_model(pixel_values=self._pixels(images)).pooler_output
        return F.normalize(self.model.visual_projection(read).float(), dim=-1)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Return features [n width] of texts; words beyond the tower's window are cut off."""
        length = int(self.model.config.text_config.max_position_embeddings)
        read = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        ids = read.input_ids.to(next(self.model.parameters()).device)
        pooled = self.model.text_model(input_ids=ids).pooler_output
        return F.normalize(self.model.text_projection(pooled).float(), dim=-1)


@cache
def clip_both() -> ClipBoth:
    """Open the model that ``PCS_CLIP`` names (a folder or hub id), or OpenAI's ViT-L/14.

    Raises
    ------
    InputError
        It cannot be had here.
    """
    from transformers import CLIPModel, CLIPTokenizer

    name = os.environ.get(VARIABLE, LARGE)
    try:
        model = CLIPModel.from_pretrained(name, use_safetensors=True)
        tokenizer = CLIPTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"feature model 'clip.both': {name!r} cannot be opened ({reason}): set {VARIABLE} to a folder with "
            f"a CLIP model and its tokenizer in safetensors ({LARGE}, 1.7 GB, MIT licence)"
        ) from error
    return ClipBoth(model, tokenizer)


@cache
def tiny_clip() -> ClipBoth:
    """Return random towers, the same everywhere on one torch version."""
    return ClipBoth(*build_clip())


def build_clip() -> tuple[Any, Any]:
    """Return a random model of two layers a tower, and a tokenizer for it."""
    from transformers import CLIPConfig, CLIPModel

    from pcs_diffusers.tiny import build_tokenizer

    tokenizer: Any = build_tokenizer()
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        config = CLIPConfig(
            text_config={**sizes, **text},
            vision_config={**sizes, "image_size": 32, "patch_size": 8},
            projection_dim=24,
        )
        return CLIPModel(config), tokenizer
