"""Vision towers: which is which, and how one's last blocks are split off."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcs_core.errors import InputError
from pcs_diffusers.clip_both import build_clip, clip_both
from pcs_diffusers.vision import clip_image_huge, tiny_image


@pytest.mark.parametrize("layers", [1, 2])
def test_the_tail_on_its_states_is_the_tower(layers: int) -> None:
    tower = tiny_image()
    images = torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    actual = tower.tail(layers)(tower.states(images, layers))
    torch.testing.assert_close(actual, tower.pooled(images), atol=1e-5, rtol=1e-4)


def test_training_the_tail_leaves_the_tower_as_it_was() -> None:
    tower = tiny_image()
    before = {k: v.clone() for k, v in tower.model.state_dict().items()}
    tail = tower.tail(2)
    with torch.no_grad():
        for param in tail.parameters():
            param.add_(1.0)
    assert all(torch.equal(v, before[k]) for k, v in tower.model.state_dict().items())
    assert not any(p.requires_grad for p in tower.model.parameters())


def test_a_tower_that_is_not_vit_h_is_refused_by_its_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IP-Adapter reads ViT-H/14's 1024 channels, not the 768 of ViT-L/14."""
    clip_image_huge.cache_clear()
    tiny_image().model.save_pretrained(tmp_path)
    monkeypatch.setenv("PCS_CLIP_IMAGE_H14", str(tmp_path))
    with pytest.raises(InputError, match="has 24 channels, ViT-H/14's 1024"):
        clip_image_huge()
    monkeypatch.setenv("PCS_CLIP_IMAGE_H14", str(tmp_path / "nowhere"))
    with pytest.raises(
        InputError, match="set PCS_CLIP_IMAGE_H14 to a folder with a CLIP vision tower"
    ):
        clip_image_huge()
    clip_image_huge.cache_clear()


def test_pictures_and_texts_of_clip_are_transformers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features of both towers, of a saved folder, are those that transformers' own model gives."""
    model, tokenizer = build_clip()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    monkeypatch.setenv("PCS_CLIP", str(tmp_path))
    both = clip_both.__wrapped__()
    pictures, texts = torch.rand(2, 3, 40, 48), ["a photo of a dog", "snow"]
    ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = model.eval()(input_ids=ids, pixel_values=both._pixels(pictures))
    torch.testing.assert_close(both.image_features(pictures), theirs.image_embeds)
    torch.testing.assert_close(both.text_features(texts), theirs.text_embeds)
    monkeypatch.setenv("PCS_CLIP", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="set PCS_CLIP to a folder with a CLIP model"):
        clip_both.__wrapped__()
