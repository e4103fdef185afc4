"""Segment Anything as a feature model: transformers' own class, opened from a folder or the hub.

It is Kirillov et al.'s (arXiv:2304.02643). The preprocessing is that of its release: the longer side is scaled
to the encoder's, pixels are normalised by ImageNet's mean and deviation, and zeros fill up the square.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VARIABLE, DEFAULT = "PCS_SAM", "facebook/sam-vit-base"
HOW = (
    f"set {VARIABLE} to a folder or hub id of Segment Anything in transformers' layout, as {DEFAULT} "
    "(375 MB; sam-vit-huge is 2.6 GB; both Apache-2.0)"
)


class Segmenter:
    """A frozen SAM. Places are points (x, y) in pixels of the encoder's square, ``side`` pixels wide."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.side = int(model.config.vision_config.image_size)

    def square(self, picture: Tensor, mode: str = "bilinear") -> Tensor:
        """Return a picture or mask [c h w] scaled to the square [c side side], with zeros behind its end."""
        height, width = self.shown(picture)
        antialias = mode == "bilinear"
        scaled = F.interpolate(
            picture[None].float(), (height, width), mode=mode, antialias=antialias
        )
        return F.pad(scaled, (0, self.side - width, 0, self.side - height))[0]

    def shown(self, picture: Tensor) -> tuple[int, int]:
        """Return height and width of a picture [c h w] in the square."""
        scale = self.side / max(picture.shape[-2:])
        height, width = (max(1, int(n * scale + 0.5)) for n in picture.shape[-2:])
        return height, width

    @torch.no_grad()
    def features(self, picture: Tensor) -> Tensor:
        """Return the encoder's answer [c h w] to a picture [3 h w] in [0, 1]."""
        device = next(self.model.parameters()).device
        mean, std = (torch.tensor(t).view(3, 1, 1) for t in (MEAN, STD))
        height, width = self.shown(picture)
        pixels = (self.square(picture.cpu()) - mean) / std
        pixels[:, height:], pixels[:, :, width:] = 0.0, 0.0  # the ground is zero after normalising
        answer: Tensor = self.model.get_image_embeddings(pixels[None].to(device))
        return answer[0].float().cpu()

    @torch.no_grad()
    def predict(self, features: Tensor, *, several: bool, **prompt: Any) -> tuple[Tensor, Tensor]:
        """Return logits of masks [n m m] of the square and how sure the network is of each [n].

        ``prompt`` are points, labels, boxes, masks, and PerSAM's two hints, as its ``forward`` takes them.
        """
        device = next(self.model.parameters()).device
        given = {k: v.to(device) if hasattr(v, "to") else v for k, v in prompt.items()}
        output = self.model(
            image_embeddings=features[None].to(device), multimask_output=several, **given
        )
        return output.pred_masks[0, 0].float().cpu(), output.iou_scores[0, 0].float().cpu()

    def unfold(self, logits: Tensor, picture: Tensor) -> Tensor:
        """Return logits [m m] of the square at the places of a picture [3 h w]: [1 h w]."""
        size = (self.side, self.side)
        whole = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)
        height, width = self.shown(picture)
        shape = tuple(picture.shape[-2:])
        part = whole[..., :height, :width]
        return F.interpolate(part, shape, mode="bilinear", align_corners=False)[0]


@cache
def segment_anything() -> Segmenter:
    """Open what ``PCS_SAM`` names, or the released base model.

    Raises
    ------
    InputError
        It cannot be had here.
    """
    from transformers import SamModel

    name = os.environ.get(VARIABLE, DEFAULT)
    try:
        return Segmenter(SamModel.from_pretrained(name, use_safetensors=True))
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"feature model 'sam': {name!r} cannot be opened ({reason}): {HOW}"
        ) from error


@cache
def tiny() -> Segmenter:
    """Return SAM's real class with few random weights, the same in every process."""
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "mlp_dim": 32,
        "output_channels": 32,
        "global_attn_indexes": [1],
        "window_size": 4,
        "num_pos_feats": 16,
    }
    decoder = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "mlp_dim": 32,
        "num_hidden_layers": 2,
        "iou_head_hidden_dim": 32,
    }
    prompts = {"hidden_size": 32, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Segmenter(SamModel(config))
