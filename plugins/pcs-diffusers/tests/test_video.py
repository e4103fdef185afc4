"""The text-to-video family: sites, frames, folders, and the loops over clips."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from pcs_core import fit, open_backbone, sample
from pcs_core.backbone import Attachment, select_sites
from pcs_core.data import AttnEdit, Concept, Fusion, Phase, Subject
from pcs_core.errors import InputError
from pcs_diffusers.tiny import tiny_video
from pcs_diffusers.video import TextToVideo
from pcs_testing import Snapshot, evaluate_attached, make_recipe, make_subject
from pcs_testing.probe import Probe

PROMPTS = ("a photo of a dog", "a red toy on the beach")


@pytest.fixture(scope="module")
def backbone() -> TextToVideo:
    return tiny_video()


def clip_subject() -> Subject:
    rng = torch.Generator().manual_seed(0)
    clip = torch.rand(3, 7, 20, 24, generator=rng)
    return Subject("run", (Concept("run", "<run>", "dog"),), (clip,), (None,), files=("a",))


def test_sites_over_time_are_told_from_those_over_space(backbone: TextToVideo) -> None:
    kinds = Counter(s.kind for s in backbone.sites if s.part == "denoiser")
    assert (kinds["temporal"], kinds["self"], kinds["cross"]) == (10, 4, 4)
    for site in select_sites(backbone.sites, "*", kind="temporal"):
        assert "temp_attentions" in site.name or site.name.startswith("transformer_in")
    spatial = select_sites(backbone.sites, "*.attentions.*.to_q")
    assert len(spatial) == 8
    assert not [s for s in spatial if "temp" in s.name]


def test_an_empty_chain_is_the_bare_network(backbone: TextToVideo) -> None:
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(2, *backbone.latent_shape, generator=rng)
    before = Snapshot(backbone)
    with torch.no_grad(), Attachment(backbone, Fusion()) as net:
        evaluation = evaluate_attached(net, PROMPTS, latents=latents)
    before.assert_unchanged()
    ids = backbone.tokenizer.inner(
        list(PROMPTS), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        plain = backbone.denoiser(latents, 400, backbone.encode_ids(ids)[0]).sample
    assert torch.equal(evaluation.output, plain)
    assert evaluation.x0.shape == latents.shape


def test_edits_see_one_row_of_conditioning_a_frame(backbone: TextToVideo) -> None:
    seen: dict[str, tuple[int, int]] = {}

    class Recorder(AttnEdit):
        def bias(self, state: Any, cond: Any) -> Any:
            seen[self.site.kind] = (state.x.shape[0], cond.rows)
            last = cond.subject
            assert last.tolist() == sorted(last.tolist())
            return state

    sites = [s for s in backbone.sites if s.kind in ("temporal", "cross", "self")]
    fusion = Fusion(edits=tuple(Recorder(s, stacked=True) for s in sites))
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        evaluate_attached(net, PROMPTS, [0, 1])
    assert seen["cross"] == seen["self"] == (8, 8)
    # over time the places of the grid are rows, here of its last and finest level
    assert seen["temporal"][0] == seen["temporal"][1] == 2 * 64


def test_the_autoencoder_sees_each_frame_by_itself(backbone: TextToVideo) -> None:
    rng = torch.Generator().manual_seed(0)
    clips = torch.rand(2, 3, 4, 16, 16, generator=rng)
    with torch.no_grad():
        mean, std = backbone.moments(clips)
        one, _ = backbone.moments(clips[1:, :, 2])
    assert mean.shape == std.shape == (2, 4, 4, 8, 8)
    torch.testing.assert_close(mean[1:, :, 2:3], one)
    assert backbone.decode(mean).shape == clips.shape


def test_a_clip_is_fitted_and_drawn(backbone: TextToVideo) -> None:
    recipe = make_recipe([Probe(sites="temporal")], Phase("p", 2, lr={"*": 1e-2}))
    (artifact,) = fit(recipe, clip_subject(), backbone)
    assert any(t.abs().max() > 0 for t in artifact.tensors.values())
    drawn = sample(artifact, backbone, "a photo of <run>", count=2)
    assert drawn.shape == (2, 3, 4, 16, 16)
    assert not torch.equal(drawn, sample(None, backbone, "a photo of <run>", count=2))


def test_pictures_are_clips_of_one_frame(backbone: TextToVideo) -> None:
    recipe = make_recipe([Probe()], Phase("p", 1))
    fit(recipe, make_subject(), backbone)


def test_clips_on_a_backbone_of_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="holds clips, and backbone 'tiny' draws pictures"):
        fit(make_recipe([Probe()], Phase("p", 1)), clip_subject(), "tiny")


def test_a_saved_folder_is_the_same_backbone(backbone: TextToVideo, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    backbone.denoiser.save_pretrained(folder / "unet")
    backbone.vae.save_pretrained(folder / "vae")
    backbone.text_encoder.save_pretrained(folder / "text_encoder")
    backbone.tokenizer.inner.save_pretrained(folder / "tokenizer")
    DDIMScheduler.from_config(backbone.scheduler_config).save_pretrained(folder / "scheduler")
    opened: Any = open_backbone(folder)
    assert isinstance(opened, TextToVideo)
    assert opened.latent_shape == (4, 16, 8, 8)
    for part, module in backbone.parts.items():
        saved = opened.parts[part].state_dict()
        assert all(torch.equal(t, saved[n]) for n, t in module.state_dict().items())
    shutil.rmtree(folder / "vae")
    with pytest.raises(InputError, match="folder 'vae' is missing"):
        open_backbone(folder)
