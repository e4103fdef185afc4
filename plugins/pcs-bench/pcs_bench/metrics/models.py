"""The published models behind the metrics, on the classes of transformers and open_clip.

A metric is a published network with its weights: CLIP-T means OpenAI's ViT-B/32, not some encoder.
So this file, alone in this distribution, imports transformers; the import contract names it. Classes
are given their network, so that tests run the same code at a tiny size with random weights; ``open_*``
loads the published weights from the hub's local cache or the hub, and says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel, Dinov2Model, ViTModel

from pcs_bench.metrics.preparing import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    prepare,
)
from pcs_core.errors import InputError

CLIP_ID = "openai/clip-vit-base-patch32"
DINO_ID = "facebook/dino-vits16"
DINOV2_ID = "facebook/dinov2-small"
PICKSCORE_ID = "yuvalkirstain/PickScore_v1"
PICKSCORE_TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
HPS_ID, HPS_FILE = "xswu/HPSv2", "HPS_v2.1_compressed.pt"
BATCH = 32

Loaded = TypeVar("Loaded")


class Clip:
    """CLIP: pictures and prompts as features [n d] of unit norm. Picks (PickScore) are scaled cosines."""

    def __init__(self, net: CLIPModel, tokenizer: Any) -> None:
        self.net, self.tokenizer = net.eval(), tokenizer
        self.size: int = net.config.vision_config.image_size

    def image_features(self, pictures: Tensor) -> Tensor:
        """[n d]: shortest side to the network's size, centre crop, CLIP's mean and deviation."""
        return torch.cat([self._seen(part) for part in pictures.split(BATCH)])

    def _seen(self, pictures: Tensor) -> Tensor:
        x = prepare(pictures, shortest=self.size, crop=self.size, mean=CLIP_MEAN, std=CLIP_STD)
        pooled = self.net.vision_model(pixel_values=x).pooler_output
        return normalize(self.net.visual_projection(pooled).float(), dim=-1)

    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """[n d]: cut at 77 tokens."""
        length = self.net.config.text_config.max_position_embeddings
        ids = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        pooled = self.net.text_model(
            input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
        ).pooler_output
        return normalize(self.net.text_projection(pooled).float(), dim=-1)

    def score(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """[n]: cosine times the learned scale (PickScore, arXiv:2305.01569, equation 1)."""
        return self.net.logit_scale.exp() * (
            self.image_features(pictures) * self.text_features(prompts)
        ).sum(1)


class Dino:
    """DINO or DINOv2: the class token as a feature [n d] of unit norm."""

    def __init__(self, net: ViTModel | Dinov2Model, shortest: int = 256, crop: int = 224) -> None:
        self.net, self.shortest, self.crop = net.eval(), shortest, crop

    def image_features(self, pictures: Tensor) -> Tensor:
        """[n d]: shortest side to 256, centre crop to 224, ImageNet's mean and deviation."""
        return torch.cat([self._seen(part) for part in pictures.split(BATCH)])

    def _seen(self, pictures: Tensor) -> Tensor:
        x = prepare(
            pictures, shortest=self.shortest, crop=self.crop, mean=IMAGENET_MEAN, std=IMAGENET_STD
        )
        return normalize(self.net(pixel_values=x).last_hidden_state[:, 0].float(), dim=-1)


class Hps:
    """HPS v2: open_clip's ViT-H/14 tuned on human choices; the score is the cosine."""

    def __init__(self, net: nn.Module, tokenizer: Callable[[list[str]], Tensor], size: int) -> None:
        self.net: Any = net.eval()
        self.tokenizer, self.size = tokenizer, size

    def score(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """[n] (arXiv:2306.09341, section 4)."""
        x = prepare(pictures, shortest=self.size, crop=self.size, mean=CLIP_MEAN, std=CLIP_STD)
        seen = normalize(self.net.encode_image(x).float(), dim=-1)
        said = normalize(self.net.encode_text(self.tokenizer(list(prompts))).float(), dim=-1)
        return (seen * said).sum(1)


def hub(what: str, load: Callable[[], Loaded]) -> Loaded:
    """Return what ``load`` loads, or say which weights are missing and how to get them."""
    try:
        return load()
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        why = " ".join(str(error).split())[:160]
        raise InputError(
            f"the weights of {what} are not here: fetch them once with `hf download {what}` where "
            f"the hub is reached ({type(error).__name__}: {why})"
        ) from error


@cache
def clip() -> Clip:
    """OpenAI's CLIP ViT-B/32."""
    return hub(CLIP_ID, partial(_clip, CLIP_ID, CLIP_ID))


@cache
def pickscore() -> Clip:
    """PickScore v1."""
    return hub(PICKSCORE_ID, partial(_clip, PICKSCORE_ID, PICKSCORE_TOKENIZER))


def _clip(id: str, tokenizer: str) -> Clip:
    return Clip(CLIPModel.from_pretrained(id), AutoTokenizer.from_pretrained(tokenizer))


@cache
def dino() -> Dino:
    """DINO ViT-S/16."""
    return hub(DINO_ID, lambda: Dino(ViTModel.from_pretrained(DINO_ID, add_pooling_layer=False)))


@cache
def dinov2() -> Dino:
    """DINOv2 ViT-S/14."""
    return hub(DINOV2_ID, lambda: Dino(Dinov2Model.from_pretrained(DINOV2_ID)))


@cache
def hps() -> Hps:
    """HPS v2.1. Its file is a torch archive, read with ``weights_only``: tensors, no code."""
    return hub(HPS_ID, _hps)


def _hps() -> Hps:
    import open_clip
    from huggingface_hub import hf_hub_download

    file = hf_hub_download(HPS_ID, HPS_FILE)
    net = open_clip.create_model("ViT-H-14", pretrained=None)
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["state_dict"])
    return Hps(net, open_clip.get_tokenizer("ViT-H-14"), 224)


@cache
def image_reward() -> Any:
    """ImageReward v1.0, its torch archive read with ``weights_only``."""
    from pcs_bench.metrics import image_reward as kept

    return hub(kept.HUB, _image_reward)


def _image_reward() -> Any:
    from huggingface_hub import hf_hub_download

    from pcs_bench.metrics import image_reward as kept

    file = hf_hub_download(kept.HUB, kept.FILE)
    vision, text, head = kept.split(torch.load(file, map_location="cpu", weights_only=True))
    reward = blip_reward(
        AutoTokenizer.from_pretrained(kept.TOKENIZER),
        vision={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
        | {"num_attention_heads": 16, "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6},
        text={"vocab_size": 30524, "encoder_hidden_size": 1024, "max_position_embeddings": 512},
    )
    reward.vision.load_state_dict(vision)
    reward.text.load_state_dict(text)
    reward.head.load_state_dict(head)
    return reward


def blip_reward(tokenizer: Any, *, vision: dict[str, Any], text: dict[str, Any]) -> Any:
    """Return an ImageReward of these sizes with random weights."""
    from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    from pcs_bench.metrics import image_reward as kept

    config = BlipTextConfig(**text, is_decoder=True)
    # read without a mask of the future: the class token attends to the whole prompt
    reader = BlipTextModel(config, add_pooling_layer=False)
    return kept.Reward(
        BlipVisionModel(BlipVisionConfig(**vision)),
        reader,
        kept.head(config.hidden_size),
        tokenizer,
    )
