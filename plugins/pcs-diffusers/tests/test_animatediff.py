"""The AnimateDiff family: folders of one network and of two parts, sites, frames, parity with its pipeline."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter
from safetensors.torch import load_file, save_file

from pcs_core import fit, load_recipe, open_backbone, sample
from pcs_core.backbone import Attachment, select_sites
from pcs_core.catalogue import catalogue
from pcs_core.data import AttnEdit, Fusion
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.animatediff import AnimateDiff, join
from pcs_diffusers.recognise import family_of_location
from pcs_diffusers.tiny import build_text_encoder, build_tokenizer, build_vae
from pcs_diffusers.tiny_animatediff import LINEAR, build_parts, tiny_animatediff
from pcs_engine.randomness import generator
from pcs_testing import Snapshot, evaluate_attached, make_subject
from pcs_testing.whole_run import make_references

PROMPTS = ["a photo of a dog", "a red toy on the beach, grass (snow)!"]
CLIP = make_references(clips=True)
BRIEF = ["motion.steps=2", "video.noise_prior.steps=2", "sample.steps=2", "spatial.off=0.0"]


@pytest.fixture(scope="module")
def backbone() -> AnimateDiff:
    return tiny_animatediff()


def pipeline_of(backbone: Any, name: str = "ddim", **parts: Any) -> Any:
    """Return diffusers' own pipeline of a backbone's parts, or of others."""
    ours = backbone.sampler(name, 2).scheduler
    given = {
        "unet": backbone.denoiser,
        "motion_adapter": None,
        "vae": backbone.vae,
        "text_encoder": backbone.text_encoder,
        "tokenizer": backbone.tokenizer.inner,
        "scheduler": type(ours).from_config(ours.config),
    }
    pipeline = AnimateDiffPipeline(**(given | parts))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn_by(pipeline: Any, shape: tuple[int, ...], *, seed: int, **options: Any) -> torch.Tensor:
    """Return the clips [b 3 t h w] that a pipeline draws of the noise of ``seed``."""
    noise = [generator(seed + i, "noise") for i in range(len(PROMPTS))]
    clips: torch.Tensor = pipeline(
        PROMPTS,
        latents=torch.stack([torch.randn(shape, generator=g) for g in noise]),
        num_frames=shape[1],
        height=2 * shape[2],
        width=2 * shape[3],
        output_type="pt",
        generator=noise,  # what schedulers add comes from the same generators, after the first noise
        **options,
    ).frames
    return clips.transpose(1, 2)


@pytest.mark.parametrize("name", ["ddim", "euler", "euler-a", "lcm", "dpm++2m-karras"])
def test_equals_the_pipeline(backbone: AnimateDiff, name: str) -> None:
    ours = sample(None, backbone, PROMPTS, seed=3, steps=5, scale=5.0, scheduler=name)
    pipeline = pipeline_of(backbone, name)
    theirs = drawn_by(
        pipeline, backbone.latent_shape, seed=3, num_inference_steps=5, guidance_scale=5.0
    )
    assert ours.shape == (2, 3, 4, 16, 16)
    assert ours.std() > 0.01
    assert (ours - theirs).abs().max() < 1e-5


def test_equals_the_pipeline_with_a_negative_prompt_at_another_size(backbone: AnimateDiff) -> None:
    ours = sample(
        *(None, tiny_animatediff(), PROMPTS), steps=3, scale=3.0, negative="snow", size=(16, 24)
    )
    theirs = drawn_by(
        *(pipeline_of(backbone), (4, 4, 8, 12)),
        seed=0,
        num_inference_steps=3,
        guidance_scale=3.0,
        negative_prompt=["snow"] * 2,
    )
    assert (ours - theirs).abs().max() < 1e-5


def test_an_empty_chain_is_the_bare_network(backbone: AnimateDiff) -> None:
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(2, *backbone.latent_shape, generator=rng)
    before = Snapshot(backbone)
    with torch.no_grad(), Attachment(backbone, Fusion()) as net:
        evaluation = evaluate_attached(net, PROMPTS, latents=latents)
    before.assert_unchanged()
    ids = backbone.tokenizer.inner(
        PROMPTS, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        text = backbone.encode_ids(ids)[0].repeat_interleave(4, dim=0)
        plain = backbone.denoiser(latents, 400, text).sample
    assert torch.equal(evaluation.output, plain)


def test_sites_over_time_are_told_from_those_over_space(backbone: AnimateDiff) -> None:
    kinds = Counter(s.kind for s in backbone.sites if s.part == "denoiser")
    assert (kinds["temporal"], kinds["self"], kinds["cross"]) == (14, 4, 4)
    for selector in ("temporal.*", "before_temporal", "after_temporal"):
        chosen = select_sites(backbone.sites, selector)
        assert chosen
        assert all("motion_modules" in site.name for site in chosen)
    for selector in ("attention.self.*|attention.cross.*|ff.*", "*.attentions.*.to_q"):
        chosen = select_sites(backbone.sites, selector, part="denoiser")
        assert chosen
        assert not any("motion_modules" in site.name for site in chosen)
    pictures, _ = build_parts()
    spatial = {n for n, m in pictures.named_modules() if hasattr(m, "to_q")}
    ours = {s.name for s in backbone.sites if s.kind in ("self", "cross") and s.part == "denoiser"}
    assert ours == spatial


def test_edits_see_one_row_of_conditioning_a_frame(backbone: AnimateDiff) -> None:
    seen: dict[str, tuple[int, int]] = {}

    class Recorder(AttnEdit):
        def bias(self, state: Any, cond: Any) -> Any:
            seen[self.site.kind] = (state.x.shape[0], cond.rows)
            assert cond.subject.tolist() == sorted(cond.subject.tolist())
            return state

    sites = [s for s in backbone.sites if s.kind in ("temporal", "cross", "self")]
    fusion = Fusion(edits=tuple(Recorder(s, stacked=True) for s in sites if s.part == "denoiser"))
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        evaluate_attached(net, PROMPTS, [0, 1])
    assert seen["cross"] == seen["self"] == (8, 8)
    assert seen["temporal"] == (2 * 64, 2 * 64)


def test_recomputed_activations_give_the_same_gradients(backbone: AnimateDiff) -> None:
    recipe = load_recipe("motiondirector", backbone=backbone, overrides=BRIEF)
    plain, again = (
        fit(recipe, CLIP, backbone, seed=1, checkpointing=checkpointing)[0]
        for checkpointing in (False, True)
    )
    assert any(t.abs().max() > 0 for n, t in plain.tensors.items() if n.endswith("/B"))
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(again.tensors[name], tensor, msg=name)


def test_motiondirector_learns_motion_in_the_motion_modules(backbone: AnimateDiff) -> None:
    recipe = load_recipe("motiondirector", backbone=backbone, overrides=BRIEF)
    (artifact,) = fit(recipe, CLIP, backbone)
    paths = {name.partition("/")[0] for name in artifact.tensors}
    temporal = [n for n in artifact.tensors if n.startswith("temporal/")]
    assert {"spatial", "temporal"} <= paths
    assert len(temporal) == 2 * 10 * 7  # q, k, v and output twice, and two of the feed-forward part
    assert all("motion_modules" in name for name in temporal)
    assert not any("motion_modules" in n for n in artifact.tensors if n.startswith("spatial/"))
    drawn = sample(artifact, backbone, "a photo of <thing>", count=2)
    assert drawn.shape == (2, 3, 4, 16, 16)
    assert not torch.equal(drawn, sample(None, backbone, "a photo of dog", count=2, steps=2))


def test_pictures_are_clips_of_one_frame(backbone: AnimateDiff) -> None:
    recipe = load_recipe("lycoris", backbone=backbone)
    overrides = [f"{phase.name}.steps=1" for phase in recipe.phases]
    fit(load_recipe("lycoris", backbone=backbone, overrides=overrides), make_subject(), backbone)


def test_more_frames_than_positions_are_refused(backbone: AnimateDiff) -> None:
    parts = {
        "unet": join(*build_parts(middle=False)),
        "vae": backbone.vae,
        "text_encoder": backbone.text_encoder,
        "tokenizer": backbone.tokenizer.inner,
        "scheduler_config": LINEAR,
        "id": "v1",
    }
    assert AnimateDiff(frames=24, **parts).latent_shape == (4, 24, 8, 8)
    with pytest.raises(InputError, match="25 frames, and the motion modules 24 positions"):
        AnimateDiff(frames=25, **parts)


# --- folders ---------------------------------------------------------------------------------


def random_parts(*, middle: bool = True) -> tuple[Any, Any, Any]:
    """Return a UNet of pictures, motion modules, and diffusers' pipeline of both."""
    tokenizer = build_tokenizer()
    torch.manual_seed(3)
    unet, adapter = build_parts(middle=middle)
    pipeline = AnimateDiffPipeline(
        unet=unet,
        motion_adapter=adapter,
        vae=build_vae(side=16),
        text_encoder=build_text_encoder(tokenizer),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler.from_config(LINEAR),
    )
    pipeline.set_progress_bar_config(disable=True)
    return unet, adapter, pipeline


@pytest.fixture(scope="module", params=[True, False], ids=["v2", "v1"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a pipeline, the folder that it saved, and one that keeps the UNet of pictures apart."""
    unet, _, pipeline = random_parts(middle=request.param)
    whole = tmp_path_factory.mktemp("models") / "whole"
    pipeline.save_pretrained(whole)
    parts = Path(shutil.copytree(whole, whole.with_name("parts")))
    shutil.rmtree(parts / "unet")
    unet.save_pretrained(parts / "unet")
    return pipeline, whole, parts


@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_a_folder_draws_what_the_pipeline_draws(saved: Any, kind: str) -> None:
    pipeline, *folders = saved
    folder = folders[kind == "parts"]
    assert family_of_location(folder) == "animatediff"
    opened: Any = open_backbone(folder)
    assert isinstance(opened, AnimateDiff)
    assert opened.card.family == "animatediff"
    assert opened.latent_shape == (4, 16, 8, 8)
    assert opened.card.hash == open_backbone(folder).card.hash
    saved_weights = pipeline.unet.state_dict()
    read = opened.denoiser.state_dict()
    assert saved_weights.keys() == read.keys()
    assert all(torch.equal(saved_weights[name], tensor) for name, tensor in read.items())
    ours = sample(None, opened, PROMPTS, seed=5, steps=3, scale=4.0, scheduler="ddim")
    theirs = drawn_by(
        *(pipeline, opened.latent_shape), seed=5, num_inference_steps=3, guidance_scale=4.0
    )
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["whole", "parts"])
@pytest.mark.parametrize("device", ["meta", "fake"])
def test_a_folder_opens_without_weights(saved: Any, kind: str, device: str, tmp_path: Path) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    folder = Path(shutil.copytree(saved[1 + (kind == "parts")], tmp_path / "small"))
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    opened = catalogue().get("services", "open_without_weights")(
        folder, making=lambda: torch.device("meta") if device == "meta" else mode
    )
    assert isinstance(opened, AnimateDiff)
    expected = {n: t.shape for n, t in saved[0].unet.state_dict().items()}
    assert {n: t.shape for n, t in opened.denoiser.state_dict().items()} == expected


@pytest.mark.parametrize("kind", ["whole", "parts"])
@pytest.mark.parametrize("quantize", ["bf16", "fp8", "int8"])
def test_its_weights_are_stored_in_few_bits(saved: Any, kind: str, quantize: str) -> None:
    folder = saved[1 + (kind == "parts")]
    opened: Any = open_backbone(folder, quantize=quantize)
    modules: Any = opened.denoiser.down_blocks[0].motion_modules[0].transformer_blocks[0]
    pictures: Any = opened.denoiser.down_blocks[0].attentions[0].transformer_blocks[0]
    full = sample(None, open_backbone(folder), PROMPTS[0], steps=2)
    drawn = sample(None, opened, PROMPTS[0], steps=2)
    assert 0 < (drawn - full).abs().max() < 0.2
    stored = [m.attn1.to_q.weight.dtype for m in (modules, pictures)]
    if quantize == "fp8":
        assert stored == [torch.float8_e4m3fn] * 2
    assert torch.float32 not in stored


def changed(path: Path, **entries: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("file", "entries", "said"),
    [
        ("model_index", {"_class_name": "AnimateDiffSDXLPipeline"}, "motion modules of SDXL"),
        ("unet/config", {"addition_embed_type": "text_time"}, "motion modules of SDXL"),
        ("model_index", {"_class_name": "PIAPipeline"}, "reads a picture beside the noise"),
        ("unet/config", {"in_channels": 9}, "reads a picture beside the noise"),
        ("motion_adapter/config", {"conv_in_channels": 9}, "reads a picture beside the noise"),
        ("model_index", {"_class_name": "AnimateDiffControlNetPipeline"}, "control network"),
        ("model_index", {"_class_name": "AnimateDiffSparseControlNetPipeline"}, "control network"),
        ("unet/config", {"encoder_hid_dim_type": "ip_image_proj"}, "saved with an IP-Adapter"),
    ],
)
@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_another_variant_is_refused_before_weights_are_read(
    saved: Any, kind: str, file: str, entries: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved[1 + (kind == "parts")], tmp_path / "other"))
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    changed(folder / f"{file}.json", **entries)
    assert family_of_location(folder) == "animatediff"
    with pytest.raises(InputError, match=said):
        open_backbone(folder)


def test_motion_modules_that_would_do_nothing_are_refused(saved: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved[1], tmp_path / "other"))
    file = folder / "motion_adapter" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["up_blocks.1.motion_modules.0.proj_out.weight"] += 1e-3
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"'motion_adapter' are not those in its unet.*remove"):
        open_backbone(folder)
    shutil.rmtree(folder / "motion_adapter")
    assert isinstance(open_backbone(folder), AnimateDiff)


def test_motion_modules_of_other_blocks_are_refused(saved: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved[2], tmp_path / "other"))
    shutil.rmtree(folder / "motion_adapter")
    MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=2,
        motion_num_attention_heads=4,
        motion_norm_num_groups=8,
    ).save_pretrained(folder / "motion_adapter")
    with pytest.raises(InputError, match="different number of layers per block"):
        open_backbone(folder)


def test_what_it_cannot_host_says_so(backbone: AnimateDiff) -> None:
    with pytest.raises(CapabilityError, match="takes pictures, and backbone 'tiny-animatediff'"):
        load_recipe("ip-adapter", backbone=backbone)
    with pytest.raises(CapabilityError, match="no control network for the family 'animatediff'"):
        backbone.control_network(3, 1.0)
