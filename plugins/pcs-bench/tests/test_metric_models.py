"""The published models' code and preprocessing, on the real classes at a tiny size with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from pcs_bench.metrics import distributions, entries, image_reward, measures, models
from pcs_bench.metrics.preparing import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    prepare,
)

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}

# mean, deviation and three pixels of the picture below
GOLDEN_CLIP = [-0.3863, 0.6456, -1.7923, -1.2869, -0.1293]
GOLDEN_IMAGENET = [-0.4555, 0.767, -2.1179, -1.493, -0.1487]


def photographs(count: int = 2, h: int = 90, w: int = 130) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    plane = torch.stack([rows / h, columns / w, (rows * columns % 97) / 97])
    return torch.stack([(plane * (i + 1) * 0.7) % 1 for i in range(count)])


class Words:
    """A tokenizer of bytes: start, letters, end."""

    def __init__(self, end: int = 63) -> None:
        self.end = end

    def __call__(self, texts: Sequence[str], max_length: int = 16, **_: Any) -> dict[str, Tensor]:
        rows = [[1, *(2 + ord(c) % 50 for c in t[: max_length - 2]), self.end] for t in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [self.end] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}


def tiny_clip() -> models.Clip:
    torch.manual_seed(0)
    text = SMALL | {"vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 63}
    config = CLIPConfig(
        text_config=text,
        vision_config=SMALL | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    return models.Clip(CLIPModel(config), Words())


def test_clip_preprocessing_is_the_published_processors() -> None:
    # an even margin: at an odd one torchvision, as OpenAI's code, rounds where transformers floors
    pictures = photographs(w=128)
    ours = prepare(pictures, shortest=224, crop=224, mean=CLIP_MEAN, std=CLIP_STD)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 224}, crop_size=224, resample=Image.Resampling.BICUBIC
    )
    arrays = [np.asarray((p.permute(1, 2, 0) * 255).round().to(torch.uint8)) for p in pictures]
    theirs = processor([Image.fromarray(a) for a in arrays], return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape == (2, 3, 224, 224)
    # two roundings of 8 bit at most, in units of the deviation
    assert (ours - theirs).abs().max() < 2.01 / 255 / min(CLIP_STD)
    assert (ours - theirs).abs().mean() < 0.3 / 255 / min(CLIP_STD)


def test_dino_preprocessing_is_pils() -> None:
    picture = photographs(1)
    ours = prepare(picture, shortest=256, crop=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)[0]
    array = np.asarray((picture[0].permute(1, 2, 0) * 255).round().to(torch.uint8))
    resized = Image.fromarray(array).resize((int(256 * 130 / 90), 256), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 224) / 2), 16
    crop = torch.from_numpy(np.asarray(resized.crop((left, top, left + 224, top + 224))).copy())
    theirs = crop.permute(2, 0, 1) / 255
    theirs = (theirs - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[
        :, None, None
    ]
    assert (ours - theirs).abs().max() < 2.01 / 255 / min(IMAGENET_STD)


@pytest.mark.parametrize(
    ("mean", "std", "golden"),
    [(CLIP_MEAN, CLIP_STD, GOLDEN_CLIP), (IMAGENET_MEAN, IMAGENET_STD, GOLDEN_IMAGENET)],
)
def test_preprocessing_goldens(
    mean: Sequence[float], std: Sequence[float], golden: list[float]
) -> None:
    x = prepare(photographs(1), shortest=224, crop=224, mean=mean, std=std)[0]
    actual = [float(v) for v in (x.mean(), x.std(), x[0, 0, 0], x[1, 100, 7], x[2, 223, 223])]
    assert actual == pytest.approx(golden, abs=2e-3)


def test_clip_features_are_the_models_own() -> None:
    clip = tiny_clip()
    pictures, prompts = photographs(), ["a dog", "a dog on the beach"]
    x = prepare(pictures, shortest=32, crop=32, mean=CLIP_MEAN, std=CLIP_STD)
    ids = clip.tokenizer(prompts)
    with torch.no_grad():
        whole = clip.net(pixel_values=x, **ids)
        actual = (clip.image_features(pictures) * clip.text_features(prompts)).sum(1)
        score = clip.score(pictures, prompts)
    cosines = (whole.image_embeds * whole.text_embeds).sum(1)
    assert torch.allclose(actual, cosines, atol=1e-5)
    assert torch.allclose(score, whole.logits_per_image.diagonal(), atol=1e-4)


@pytest.mark.parametrize("kind", ["dino", "dinov2"])
def test_dino_takes_the_class_token(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "dino":
        net: Any = ViTModel(
            ViTConfig(**SMALL, image_size=32, patch_size=8), add_pooling_layer=False
        )
    else:
        config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        net = Dinov2Model(Dinov2Config(**config, image_size=32, patch_size=8))
    eye = models.Dino(net, shortest=36, crop=32)
    pictures = photographs()
    with torch.no_grad():
        x = prepare(pictures, shortest=36, crop=32, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        pooled = net(pixel_values=x).pooler_output if kind == "dinov2" else None
        token = net(pixel_values=x).last_hidden_state[:, 0]
        actual = eye.image_features(pictures)
    assert torch.allclose(actual, torch.nn.functional.normalize(token, dim=-1), atol=1e-5)
    assert pooled is None or torch.allclose(pooled, token, atol=1e-5)


def test_hps_is_open_clips_cosine() -> None:
    import open_clip

    torch.manual_seed(0)
    net = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    )
    judge = models.Hps(net, open_clip.get_tokenizer("ViT-B-32"), 32)
    with torch.no_grad():
        actual = judge.score(photographs(), ["a dog", "a cat"])
        x = prepare(photographs(), shortest=32, crop=32, mean=CLIP_MEAN, std=CLIP_STD)
        image, text, _ = net.eval()(x, judge.tokenizer(["a dog", "a cat"]))
    assert torch.allclose(actual, (image * text).sum(1), atol=1e-5)


def tiny_reward() -> image_reward.Reward:
    torch.manual_seed(0)
    vision = SMALL | {"image_size": 32, "patch_size": 8}
    text = SMALL | {"vocab_size": 64, "encoder_hidden_size": 32, "max_position_embeddings": 40}
    reward: image_reward.Reward = models.blip_reward(Words(), vision=vision, text=text)
    for part in (reward.vision, reward.text, reward.head):
        for value in part.parameters():
            torch.nn.init.normal_(value, 0, 0.2)  # far enough from zero to tell pictures apart
    return reward


def test_image_reward_reads_the_prompt_over_the_picture() -> None:
    judge = tiny_reward()
    with torch.no_grad():
        scores = judge.score(photographs(), ["a dog", "a dog"])
        other = judge.score(photographs(), ["a cat", "a dog on the beach"])
        raw = judge.head(torch.zeros(1, 32))
    assert scores.shape == (2,)
    assert scores[0] != scores[1]
    assert (scores != other).all()
    assert torch.isfinite(raw).all()


def test_image_rewards_checkpoint_layout_fills_every_tensor() -> None:
    judge = tiny_reward()
    theirs = {}
    for name, value in judge.vision.state_dict().items():
        renamed = name.replace("post_layernorm", "norm")
        for a, b in image_reward._VISION:
            renamed = renamed.replace(b, a)
        theirs[f"blip.visual_encoder.{renamed}"] = value
    for name, value in judge.text.state_dict().items():
        theirs[f"blip.text_encoder.{name}"] = value
    for name, value in judge.head.state_dict().items():
        theirs[f"mlp.layers.{name}"] = value
    assert "blip.visual_encoder.blocks.0.attn.qkv.weight" in theirs
    assert "blip.visual_encoder.blocks.0.attn.proj.weight" in theirs
    assert "blip.visual_encoder.norm.weight" in theirs
    assert {f"mlp.layers.{i}.weight" for i in (0, 2, 4, 6, 7)} <= set(theirs)
    vision, text, head = image_reward.split(theirs)
    assert set(vision) == set(judge.vision.state_dict())
    assert set(text) == set(judge.text.state_dict())
    assert set(head) == set(judge.head.state_dict())


def test_fid_and_inception_score_are_torchmetrics() -> None:
    eye = SimpleNamespace(image_features=lambda x: x.flatten(1)[:, :6].float())
    measure = distributions.fid(lambda: distributions.Features(eye, 6))
    some = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    same = measure(some, references=some)
    far = measure(some * 0.2, references=some)
    assert abs(float(same)) < 1e-3 < float(far)
    score = distributions.inception_score(lambda: distributions.Features(eye, 6))(some)
    assert 1 <= float(score) <= 6


def test_lpips_diversity_compares_pictures_of_one_prompt() -> None:
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    net = _LPIPS(pretrained=False, pnet_rand=True, net="alex").eval()
    measure = distributions.lpips_diversity(lambda: net)
    a, b = photographs(2, 64, 64)
    with torch.no_grad():
        alike = measure(torch.stack([a, a, b]), prompts=["x", "x", "y"])
        apart = measure(torch.stack([a, b, b]), prompts=["x", "x", "y"])
        alone = measure(torch.stack([a, b]), prompts=["x", "y"])
    assert float(alike) == pytest.approx(0, abs=1e-6)
    assert abs(float(apart)) > 1e-4  # random heads may turn the sign
    assert alone.isnan().all()


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pcs_core.errors import InputError

    def gone(*_: Any, **__: Any) -> Any:
        raise OSError("no route")

    models.clip.cache_clear()
    monkeypatch.setattr(models.CLIPModel, "from_pretrained", gone)
    with pytest.raises(InputError, match="openai/clip-vit-base-patch32 are not here"):
        entries.clip_t().score(photographs(), prompts=["a", "b"])


def test_measures_on_a_real_class() -> None:
    clip = tiny_clip()
    pictures = photographs(3)
    similarity = measures.subject_similarity(lambda: clip)(pictures, references=pictures)
    assert similarity.shape == (3,)
    copied = measures.copy_score(lambda: clip)(pictures, references=pictures)
    assert torch.allclose(copied, torch.ones(3), atol=1e-3)
