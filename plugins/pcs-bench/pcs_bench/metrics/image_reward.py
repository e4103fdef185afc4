"""ImageReward (arXiv:2304.05977): BLIP reads the prompt over the picture, a small head scores it.

Written from the paper and the published checkpoint's layout on transformers' BLIP classes, since
the authors' package asks for a transformers of long ago.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcs_bench.metrics.preparing import CLIP_MEAN, CLIP_STD, prepare

HUB, FILE, TOKENIZER = "THUDM/ImageReward", "ImageReward.pt", "bert-base-uncased"
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Of the scores on the training set: what is reported has none and one."""
LENGTH = 35
"""Tokens of a prompt."""
_VISION = (
    ("blocks.", "encoder.layers."),
    (".attn.proj", ".self_attn.projection"),
    (".attn.", ".self_attn."),
    (".norm1", ".layer_norm1"),
    (".norm2", ".layer_norm2"),
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("cls_token", "embeddings.class_embedding"),
)


class Reward:
    """A vision model, a text model that attends to it, a head, and BERT's tokenizer."""

    def __init__(self, vision: nn.Module, text: nn.Module, head: nn.Module, tokenizer: Any) -> None:
        self.vision, self.text, self.head = vision.eval(), text.eval(), head.eval()
        self.tokenizer = tokenizer
        config: Any = vision.config
        self.size = int(config.image_size)

    def score(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """[n]: shortest side to 224, centre crop, CLIP's mean and deviation; prompts cut at 35."""
        x = prepare(pictures, shortest=self.size, crop=self.size, mean=CLIP_MEAN, std=CLIP_STD)
        seen = self.vision(pixel_values=x).last_hidden_state
        ids = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        )
        read = self.text(
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
        ).last_hidden_state[:, 0]
        return (self.head(read)[:, 0].float() - MEAN) / DEVIATION


def head(width: int) -> nn.Sequential:
    """The head, in the checkpoint's order; its drop-outs act in training alone."""
    sizes = (width, 1024, 128, 64, 16, 1)
    layers: list[nn.Module] = []
    for number, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers.append(nn.Linear(a, b))
        if number < 3:
            layers.append(nn.Dropout(0.2 if number < 2 else 0.1))
    return nn.Sequential(*layers)


def split(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Return the checkpoint's tensors of vision, text and head under the names of our modules."""
    vision, text, mlp = {}, {}, {}
    for name, value in state.items():
        if name.startswith("blip.visual_encoder."):
            renamed = name.removeprefix("blip.visual_encoder.")
            renamed = f"post_layernorm{renamed[4:]}" if renamed.startswith("norm.") else renamed
            for theirs, ours in _VISION:
                renamed = renamed.replace(theirs, ours)
            vision[renamed] = value
        elif name.startswith("blip.text_encoder."):
            if not name.endswith("position_ids"):
                text[name.removeprefix("blip.text_encoder.")] = value
        elif name.startswith("mlp.layers."):
            mlp[name.removeprefix("mlp.layers.")] = value
    return vision, text, mlp
