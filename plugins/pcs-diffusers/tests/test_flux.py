"""FLUX.1: with nothing attached diffusers' own pipeline; sites of both kinds of blocks, folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from pcs_core.backbone import Attachment, select_sites
from pcs_core.catalogue import catalogue
from pcs_core.data import AttnEdit, Fusion
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.flux import Flux
from pcs_diffusers.flux_tokens import packed, unpacked
from pcs_diffusers.recognise import family_of_location
from pcs_diffusers.tiny_flux import tiny_flux, tiny_schnell
from pcs_engine import open_backbone, sample
from pcs_engine.randomness import generator
from pcs_testing import Snapshot, evaluate, evaluate_attached, make_recipe, make_subject
from pcs_testing.fixtures import build

PROMPTS = ["a photo of a dog", "a red toy on the beach! grass (snow)"]
MAKERS = {"dev": tiny_flux, "schnell": tiny_schnell}
PICTURE, TEXT = 64, 24


@pytest.fixture(scope="module")
def backbone() -> Any:
    return tiny_flux()


def pipeline(backbone: Any) -> Any:
    made = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(backbone.scheduler_config),
        vae=backbone.vae,
        text_encoder=backbone.text_encoder.text_encoder,
        tokenizer=backbone.tokenizer.inner,
        text_encoder_2=backbone.text_encoder.t5,
        tokenizer_2=backbone.tokenizer.beside[0].inner,
        transformer=backbone.denoiser,
    )
    made.set_progress_bar_config(disable=True)
    return made


def drawn(backbone: Any, size: tuple[int, int], steps: int, **options: Any) -> torch.Tensor:
    height, width = size
    rngs = [generator(3 + i, "noise") for i in range(len(PROMPTS))]
    noise = [torch.randn((16, height // 2, width // 2), generator=g) for g in rngs]
    images: torch.Tensor = pipeline(backbone)(
        PROMPTS,
        latents=packed(torch.stack(noise)),
        num_inference_steps=steps,
        output_type="pt",
        max_sequence_length=backbone.t5_length,
        **{"height": height, "width": width, **options},
    ).images
    return images


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
@pytest.mark.parametrize("release", MAKERS)
def test_it_equals_its_pipeline(release: str, size: tuple[int, int]) -> None:
    backbone: Any = MAKERS[release]()
    ours = sample(None, backbone, PROMPTS, seed=3, steps=4, scale=1.0, size=size)
    assert ours.std() > 0.01
    assert (ours - drawn(backbone, size, 4)).abs().max() < 1e-5
    ours = sample(None, backbone, PROMPTS, seed=3, steps=3, scale=3.0, negative="snow", size=size)
    theirs = drawn(backbone, size, 3, true_cfg_scale=3.0, negative_prompt=["snow"] * 2)
    assert (ours - theirs).abs().max() < 1e-5


def test_heun_takes_the_shift_of_the_size(backbone: Any) -> None:
    ours = sample(None, backbone, PROMPTS[0], steps=3, scale=1.0, scheduler="heun", size=(16, 64))
    assert bool(torch.isfinite(ours).all())
    sampler = backbone.sampler("heun", 3)
    assert sampler.scheduler.config.shift == backbone.process.shift


def test_levels_shift_with_the_size(backbone: Any) -> None:
    shift = backbone.process.shift
    sampler = backbone.sampler("euler", 4)
    even = torch.linspace(1.0, 0.25, 4)
    expected = shift * even / (1 + (shift - 1) * even)
    torch.testing.assert_close(sampler.scheduler.sigmas[:4], expected, rtol=1e-5, atol=1e-6)
    backbone.at(64, 64)
    assert backbone.process.shift > shift
    backbone.at(32, 32)
    assert backbone.process.shift == shift
    assert tiny_schnell().process.shift == 1.0
    schedule = {**backbone.scheduler_config, "time_shift_type": "other"}
    backbone.scheduler_config, kept = schedule, backbone.scheduler_config
    with pytest.raises(CapabilityError, match="time_shift_type is 'other'"):
        backbone.make_process()
    backbone.scheduler_config = kept


def test_texts_are_those_of_the_pipeline(backbone: Any) -> None:
    before = Snapshot(backbone)
    with torch.no_grad(), Attachment(backbone, Fusion()) as net:
        ours = evaluate_attached(net, PROMPTS)
        assert torch.equal(ours.output, evaluate_attached(net, PROMPTS, model="base").output)
    before.assert_unchanged()
    text, pooled, ids = pipeline(backbone).encode_prompt(PROMPTS, max_sequence_length=TEXT)
    rng = torch.Generator().manual_seed(7)
    latents = torch.randn(2, *backbone.latent_shape, generator=rng)
    plain = backbone.denoiser(
        packed(latents),
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=backbone.process.level(torch.tensor([400, 400])).time / 1000,
        guidance=torch.full((2,), 3.5),
        img_ids=FluxPipeline._prepare_latent_image_ids(2, 8, 8, "cpu", torch.float32),
        txt_ids=ids,
    ).sample
    assert torch.equal(ours.output, unpacked(plain, 8, 8))


def test_guidance_is_told_to_dev_alone(backbone: Any) -> None:
    other = backbone.told_guidance(Conditioning(**{"distilled.scale": [1.0, 2.0]}), 2, "cpu")
    assert other.tolist() == [1.0, 2.0]
    assert backbone.told_guidance(Conditioning(), 2, "cpu").tolist() == [3.5, 3.5]
    with Attachment(backbone, Fusion(), fitting=True):
        assert backbone.told_guidance(Conditioning(), 2, "cpu").tolist() == [1.0, 1.0]
    with Attachment(backbone, Fusion()):
        assert backbone.told_guidance(Conditioning(), 2, "cpu").tolist() == [3.5, 3.5]
    assert tiny_schnell().told_guidance(Conditioning(), 2, torch.device("cpu")) is None  # type: ignore[arg-type]


class Conditioning:
    """What a network is told beside the text."""

    def __init__(self, **extra: Any) -> None:
        self.extra = {name: torch.tensor(values) for name, values in extra.items()}


# sites


class Seen(AttnEdit):
    """Keeps what it is shown, and scales rows of the values."""

    kinds = ("joint",)

    def __init__(self, site: Any, rows: slice = slice(0, 0), factor: float = 1.0) -> None:
        super().__init__(site)
        self.rows, self.factor, self.seen = rows, factor, {}

    def qkv(self, state: Any, cond: Any) -> Any:
        self.seen.update(x=state.x, context=state.context, q=state.q, k=state.k, v=state.v)
        state.v = state.v.clone()
        state.v[:, self.rows] *= self.factor
        return state


def test_blocks_of_both_kinds_are_joint_sites(backbone: Any) -> None:
    sites = select_sites(backbone.sites, "joint")
    assert [s.name for s in sites] == [
        *(f"transformer_blocks.{i}.attn" for i in range(2)),
        *(f"single_transformer_blocks.{i}.attn" for i in range(2)),
    ]
    assert {f"{s.name}.processor" for s in sites} == set(backbone.denoiser.attn_processors)
    assert {(s.heads, s.scale, s.width, s.context) for s in sites} == {(4, 2, 64, 64)}
    assert [s.block for s in sites] == ["block.0", "block.1", "single.0", "single.1"]
    for part in ("q", "k", "v", "out", "add_q", "add_k", "add_v", "add_out"):
        assert backbone.projection(sites[0], part).weight.shape == (64, 64)
    for part in ("out", "add_k"):
        with pytest.raises(CapabilityError, match=f"single_.*no projection '{part}'"):
            backbone.projection(sites[2], part)
    roles = {s.name: s.role for s in backbone.sites if s.kind == "linear"}
    assert roles["single_transformer_blocks.0.attn.to_k"] == "attention.joint.k"
    assert roles["transformer_blocks.1.attn.add_v_proj"] == "attention.joint.text_v"
    assert roles["single_transformer_blocks.0.proj_mlp"] == "ff.in"
    assert roles["single_transformer_blocks.0.proj_out"] == "ff.out"
    assert len(select_sites(backbone.sites, "attention.*.k@single")) == 2
    assert len(select_sites(backbone.sites, "after_feed_forward")) == 4


@pytest.mark.parametrize("index", [0, 2], ids=["two streams", "one"])
def test_the_picture_stands_in_front_and_the_text_behind(backbone: Any, index: int) -> None:
    site = select_sites(backbone.sites, "joint")[index]
    edit, plain = Seen(site), evaluate(backbone)
    torch.testing.assert_close(
        evaluate(backbone, Fusion(edits=(edit,))), plain, rtol=1e-4, atol=1e-5
    )
    shapes = {name: t.shape[1] for name, t in edit.seen.items()}
    assert shapes == {"x": 64, "context": TEXT, "q": 88, "k": 88, "v": 88}
    attn = backbone.denoiser.get_submodule(site.name)
    layer = attn.add_k_proj if index == 0 else attn.to_k
    with torch.no_grad():
        torch.testing.assert_close(edit.seen["v"][:, :PICTURE], attn.to_v(edit.seen["x"]))
        torch.testing.assert_close(edit.seen["k"][:, PICTURE:], layer(edit.seen["context"]))
    for rows in (slice(0, PICTURE), slice(PICTURE, None)):
        changed = evaluate(backbone, Fusion(edits=(Seen(site, rows, 3.0),)))
        assert (changed - plain).abs().max() > 1e-4


def test_maps_are_those_of_both(backbone: Any) -> None:
    with torch.no_grad(), Attachment(backbone, Fusion()) as net:
        evaluation = evaluate_attached(net, PROMPTS, record=("joint",))
        plain = evaluate_attached(net, PROMPTS).output
    assert len(evaluation.tape) == 4
    for maps in evaluation.tape.values():
        assert maps.shape == (2, 4, PICTURE + TEXT, PICTURE + TEXT)
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))
    torch.testing.assert_close(evaluation.output, plain, rtol=1e-4, atol=1e-5)


def test_key_and_value_deltas_are_those_of_the_text(backbone: Any) -> None:
    delta = catalogue().get("techniques", "weights.kv").from_settings({"sites": "joint"})
    fusion, _ = build(make_recipe([delta]), [make_subject()], backbone)
    assert len(fusion.of(AttnEdit)) == 4
    edit: Any = fusion.of(AttnEdit)[0]
    change = 0.2 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        edit.k.copy_(change)
    ours, layer = evaluate(backbone, fusion), backbone.projection(edit.site, "add_k")
    layer.weight.data += change[0]
    theirs = evaluate(backbone)
    layer.weight.data -= change[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (ours - evaluate(backbone)).abs().max() > 1e-4


def test_activations_are_recomputed_alike() -> None:
    backbone = tiny_flux()
    lora = catalogue().get("techniques", "weights.lora").from_settings({"rank": 2})
    fusion, _ = build(make_recipe([lora]), [make_subject()], backbone)
    edits: Any = fusion.edits
    gradients = []
    for checkpointing in (False, True):
        for edit in edits:
            for p in edit.parameters():
                p.requires_grad_(True).grad = None
        with Attachment(backbone, fusion, fitting=True) as net:
            if checkpointing:
                net.use_checkpointing()
            evaluate_attached(net, PROMPTS).output.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for e in edits for p in e.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].any()


def test_a_fit_on_a_network_of_few_steps_is_said(
    backbone: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from pcs_cli.main import main
    from pcs_diffusers.few_steps import tell_fit
    from pcs_folders.pictures import write_png

    write_png(torch.rand(3, 32, 32), tmp_path / "dog" / "0.png")
    words = ["--noun", "dog", "--token", "<thing>", "--set", "tune.steps=1", "--no-preview"]
    tell_fit.cache_clear()
    for name, said in (("tiny-schnell", 1), ("tiny-flux", 0)):
        given = [*words, "--backbone", name, "--device", "cpu", "--out", str(tmp_path / name)]
        assert main(["fit", "lora-dreambooth", str(tmp_path / "dog"), *given]) == 0
        assert capfd.readouterr().err.count("distilled to draw in a few steps") == said


def test_networks_of_few_steps_are_known_by_their_configurations(backbone: Any) -> None:
    from pcs_diffusers.few_steps import draws_in_few_steps
    from pcs_diffusers.tiny import tiny, tiny_sd3

    assert draws_in_few_steps({"_class_name": "LCMScheduler"}, {})
    assert draws_in_few_steps({"_class_name": "DDIMScheduler"}, {"time_cond_proj_dim": 256})
    turbo = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    assert draws_in_few_steps(turbo, {"time_cond_proj_dim": None})
    for other in (backbone, tiny(), tiny_sd3()):
        assert not draws_in_few_steps(other.scheduler_config, other.denoiser.config)


# folders


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, write_folder: Callable[[Any, Path], Path]
) -> Path:
    return write_folder(tiny_flux(), tmp_path_factory.mktemp("families") / "flux")


def test_a_saved_folder_is_the_same_backbone(folder: Path) -> None:
    backbone = tiny_flux()
    assert family_of_location(folder) == "flux"
    opened: Any = open_backbone(folder)
    assert isinstance(opened, Flux)
    assert opened.card.family == "flux"
    assert opened.latent_shape == backbone.latent_shape
    assert opened.t5_length == 512
    for part, module in backbone.parts.items():
        saved = opened.parts[part].state_dict()
        assert all(torch.equal(t, saved[n]) for n, t in module.state_dict().items())
    assert open_backbone(folder).card.hash == opened.card.hash


def test_what_it_cannot_be_is_said_before_weights_are_read(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "fill"))
    file = copy / "transformer" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "in_channels": 384, "out_channels": 64}))
    for weights in copy.rglob("*.safetensors"):
        weights.unlink()
    with pytest.raises(InputError, match=r"reads 384 channels.*Fill.*are not supported"):
        open_backbone(copy)
    shutil.rmtree(copy / "text_encoder_2")
    with pytest.raises(InputError, match="'text_encoder_2' is missing"):
        open_backbone(copy)


def test_parts_of_two_models_are_refused(folder: Path, tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shutil.rmtree(copy / "text_encoder_2")
    config = T5Config.from_pretrained(folder / "text_encoder_2")
    config.d_model = 48
    T5EncoderModel(config).save_pretrained(copy / "text_encoder_2")
    with pytest.raises(InputError, match="T5 gives 48 channels, the transformer reads 96"):
        open_backbone(copy)
