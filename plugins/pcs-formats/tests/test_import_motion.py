"""AnimateDiff's files: motion modules become a model, a motion LoRA an artifact; both draw as in diffusers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, UNetMotionModel
from safetensors.torch import load_file, save_file

from pcs_core import export, fit, load_recipe, open_backbone, sample
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.animatediff import AnimateDiff
from pcs_diffusers.skeletons import animatediff
from pcs_diffusers.tiny_animatediff import tiny_animatediff
from pcs_engine.randomness import generator
from pcs_formats.importing import import_file, inspect_file
from pcs_formats.motion_files import write_model
from pcs_formats.motion_names import authors_name, diffusers_name
from pcs_testing.whole_run import make_references

CLOSE: Any = {"rtol": 1e-4, "atol": 1e-4}
PROMPT = "a red toy"
FRAMES = 4
FILE = "diffusion_pytorch_model.safetensors"


def adapter_of(unet: Any, *, middle: bool, seed: int = 5) -> Any:
    """Return random motion modules for a UNet of pictures, as diffusers keeps them."""
    torch.manual_seed(seed)
    return MotionAdapter(
        block_out_channels=unet.config.block_out_channels,
        motion_layers_per_block=unet.config.layers_per_block,
        motion_num_attention_heads=8,
        motion_norm_num_groups=unet.config.norm_num_groups,
        motion_max_seq_length=32 if middle else 24,
        use_motion_mid_block=middle,
    )


def as_released(adapter: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of motion modules as the authors' training code saves them.

    By the classes of their motion_module.py: a VanillaTemporalModule holds a ``temporal_transformer``, whose
    blocks have the lists ``attention_blocks`` and ``norms``, an ``ff`` and an ``ff_norm``; each attention has a
    ``pos_encoder`` of its own.
    """
    tensors = {}
    for name, module in adapter.named_modules():
        if type(module).__name__ != "AnimateDiffTransformer3D":
            continue
        stem = f"{name}.temporal_transformer"
        for outer in ("norm", "proj_in", "proj_out"):
            for which, tensor in getattr(module, outer).state_dict().items():
                tensors[f"{stem}.{outer}.{which}"] = tensor
        for number, block in enumerate(module.transformer_blocks):
            place = f"{stem}.transformer_blocks.{number}"
            for index, (attention, norm) in enumerate(
                ((block.attn1, block.norm1), (block.attn2, block.norm2))
            ):
                for which, tensor in attention.state_dict().items():
                    tensors[f"{place}.attention_blocks.{index}.{which}"] = tensor
                for which, tensor in norm.state_dict().items():
                    tensors[f"{place}.norms.{index}.{which}"] = tensor
                tensors[f"{place}.attention_blocks.{index}.pos_encoder.pe"] = block.pos_embed.pe
            for which, tensor in block.ff.state_dict().items():
                tensors[f"{place}.ff.{which}"] = tensor
            for which, tensor in block.norm3.state_dict().items():
                tensors[f"{place}.ff_norm.{which}"] = tensor
    return {name: tensor.clone() for name, tensor in tensors.items()}


def drawn_by(pipeline: Any, backbone: Any, *, prompt: str = PROMPT) -> torch.Tensor:
    """Return the clip [1 3 t h w] that a pipeline draws of the first noise of seed 3."""
    rng = generator(3, "noise")
    pipeline.set_progress_bar_config(disable=True)
    clip: torch.Tensor = pipeline(
        prompt,
        latents=torch.randn(backbone.latent_shape, generator=rng)[None],
        num_frames=backbone.latent_shape[1],
        num_inference_steps=2,
        guidance_scale=3.0,
        height=backbone.card.size[0],
        width=backbone.card.size[1],
        output_type="pt",
    ).frames
    return clip.transpose(1, 2)


def ours(artifact: Any, backbone: Any, *, prompt: str = PROMPT, **options: Any) -> torch.Tensor:
    numbers: Any = {"seed": 3, "steps": 2, "scale": 3.0, "scheduler": "ddim"}
    return sample(artifact, backbone, prompt, **numbers, **options)


def pipeline_of(backbone: Any) -> Any:
    """Return diffusers' pipeline of a backbone's parts."""
    scheduler = backbone.sampler("ddim", 2).scheduler
    return AnimateDiffPipeline(
        unet=backbone.denoiser,
        motion_adapter=None,
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer.inner,
        scheduler=type(scheduler).from_config(scheduler.config),
    )


# --- names -----------------------------------------------------------------------------------


def test_names_are_those_of_both_and_of_nothing_else() -> None:
    adapter = adapter_of(animatediff().denoiser, middle=True)
    released = {name for name in as_released(adapter) if "pos_encoder" not in name}
    names = {name for name in adapter.state_dict() if "pos_embed" not in name}
    assert {diffusers_name(name) for name in released} == names
    assert {authors_name(name) for name in names} == released
    assert {diffusers_name(name) for name in names} == names


# --- motion modules --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["v1", "v2", "diffusers"])
def test_motion_modules_make_a_model_that_draws_as_diffusers_with_the_same_file(
    kind: str, release: Path, tmp_path: Path, run_pcs: Callable[..., int]
) -> None:
    base: Any = open_backbone(str(release))
    adapter = adapter_of(base.denoiser, middle=kind != "v1")
    if kind == "diffusers":
        adapter.save_pretrained(tmp_path / "given")
        given = tmp_path / "given"
        again = MotionAdapter.from_pretrained(given)
    else:
        given = tmp_path / "mm_sd_v15.ckpt"
        torch.save({"epoch": 3, "state_dict": as_released(adapter)}, given)
        adapter.save_config(tmp_path / "config")  # heads and widths of a skeleton, not of a release
        single = tmp_path / "single.safetensors"
        save_file(as_released(adapter), single)
        again = MotionAdapter.from_single_file(
            str(single), config=str(tmp_path / "config"), local_files_only=True
        )
    out = tmp_path / "animated"
    assert run_pcs("import", given, "--backbone", release, "--out", out) == 0
    opened: Any = open_backbone(out)
    assert isinstance(opened, AnimateDiff)
    assert opened.scheduler_config["beta_schedule"] == "linear"
    opened.frames = FRAMES
    opened.latent_shape = opened.make_latent_shape()
    theirs = pipeline_of(opened)
    theirs = AnimateDiffPipeline(
        **{**theirs.components, "unet": base.denoiser, "motion_adapter": again}
    )
    drawn = ours(None, opened)
    assert drawn.std() > 0.01
    torch.testing.assert_close(drawn, drawn_by(theirs, opened), **CLOSE)
    # and the folder is one of diffusers' own
    whole = AnimateDiffPipeline.from_pretrained(out)
    assert isinstance(whole.unet, UNetMotionModel)
    torch.testing.assert_close(drawn, drawn_by(whole, opened), **CLOSE)


@pytest.fixture
def modules(release: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of motion modules for the skeleton, as they are released."""
    return as_released(adapter_of(open_backbone(str(release)).denoiser, middle=True))  # type: ignore[attr-defined]


FIRST = "down_blocks.0.motion_modules.0.temporal_transformer"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(f"{FIRST}.proj_out.bias"), r"lacks 'down_blocks.0.motion_modules.0.proj_out.bias'"),
        (lambda t: t.update({f"{FIRST}.extra.weight": torch.ones(3)}), "extra.weight' is of no motion"),
        (lambda t: t.update({f"{FIRST}.proj_out.bias": torch.ones(3)}), r"proj_out.bias' is \(3,\)"),
        (lambda t: t.update({"conv_in.weight": torch.ones(320, 9, 3, 3)}), "'conv_in.weight'.*PIA"),
        (lambda t: t.update({"controlnet_cond_embedding.w": torch.ones(3)}), "SparseCtrl"),
        (lambda t: t.update({"mid_block.resnets.0.conv1.weight": torch.ones(3)}), "no motion module"),
        (
            lambda t: t[f"{FIRST}.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"].mul_(2),
            "pos_encoder.pe' holds positions of its own",
        ),
        (
            lambda t: [t.pop(n) for n in list(t) if n.startswith(("down_blocks.3.", "up_blocks.3."))],
            "blocks of .* they are of another base",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_not_used_whole_is_refused(
    modules: dict[str, torch.Tensor], change: Any, said: str, release: Path, tmp_path: Path
) -> None:
    change(modules)
    save_file(modules, tmp_path / "mm.safetensors")
    with pytest.raises(InputError, match=said):
        write_model(tmp_path / "mm.safetensors", release, tmp_path / "out")


def test_bases_and_words_that_they_cannot_have_are_refused(
    modules: dict[str, torch.Tensor], release: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mm.safetensors"
    save_file(modules, file)
    with pytest.raises(InputError, match="leave --token and --noun out"):
        write_model(file, release, tmp_path / "out", token="<dog>")
    with pytest.raises(InputError, match="'nowhere' is none: give one with --backbone"):
        write_model(file, "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match="no update of backbone 'tiny-animatediff'.*makes a model"):
        import_file(file, tiny_animatediff())
    assert not (tmp_path / "out").exists()


def test_a_file_of_diffusers_says_its_heads(
    modules: dict[str, torch.Tensor], release: Path, tmp_path: Path
) -> None:
    adapter = adapter_of(open_backbone(str(release)).denoiser, middle=True)  # type: ignore[attr-defined]
    adapter.save_pretrained(tmp_path / "given")
    config = tmp_path / "given" / "config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "motion_num_attention_heads": 4})
    )
    write_model(tmp_path / "given", release, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "motion_adapter" / "config.json").read_text())
    assert written["motion_num_attention_heads"] == 4
    config.write_text(json.dumps({"_class_name": "ControlNetModel"}))
    with pytest.raises(
        InputError, match="is of a ControlNetModel, and the file beside it holds motion"
    ):
        inspect_file(tmp_path / "given")


def test_inspect_says_what_they_are(modules: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(modules, tmp_path / "mm.safetensors")
    (loader,) = inspect_file(tmp_path / "mm.safetensors")["loaders"]
    assert loader["importer"] == "motion"
    assert loader["kind"] == "motion modules of AnimateDiff, the authors' names"
    assert loader["facts"] == {"frames": "at most 32", "in the middle": "one"}
    assert loader["matched"] == loader["keys"] == len(modules)


# --- LoRAs -----------------------------------------------------------------------------------


def motion_lora(backbone: Any, rank: int = 3) -> dict[str, torch.Tensor]:
    """Return a motion LoRA in the authors' names (of their MotionLoRA files), of every attention over time."""
    rng, tensors = torch.Generator().manual_seed(7), {}
    for name, module in backbone.denoiser.named_modules():
        if "motion_modules" not in name or not hasattr(module, "to_q"):
            continue
        place = name.replace(".transformer_blocks", ".temporal_transformer.transformer_blocks")
        place = place.replace(".attn1", ".attention_blocks.0").replace(
            ".attn2", ".attention_blocks.1"
        )
        for layer, linear in (
            *((n, getattr(module, n)) for n in ("to_q", "to_k", "to_v")),
            ("to_out", module.to_out[0]),
        ):
            out, into = linear.weight.shape
            stem = f"{place}.processor.{layer}_lora"
            tensors[f"{stem}.down.weight"] = torch.randn(rank, into, generator=rng) / into**0.5
            tensors[f"{stem}.up.weight"] = torch.randn(out, rank, generator=rng)
    return tensors


def for_diffusers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a motion LoRA as the authors' files are published for diffusers: its conversion script's names."""
    changes = (
        (".attention_blocks.0", ".attn1"),
        (".attention_blocks.1", ".attn2"),
        (".temporal_transformer", ""),
    )
    renamed = {}
    for name, tensor in tensors.items():
        for before, after in changes:
            name = name.replace(before, after)
        renamed[f"unet.{name}"] = tensor
    return renamed


@pytest.mark.parametrize("kind", ["authors", "diffusers"])
def test_a_motion_lora_draws_as_in_diffusers(kind: str, tmp_path: Path) -> None:
    backbone = animatediff()
    tensors = motion_lora(backbone)
    file = tmp_path / "v2_lora_PanLeft.ckpt"
    torch.save({"state_dict": tensors if kind == "authors" else for_diffusers(tensors)}, file)
    artifact = import_file(file, backbone)
    assert all("motion_modules" in name for name in artifact.tensors)
    plain = ours(None, backbone)
    drawn = ours(artifact, backbone, strengths={"lora": 0.7})
    assert (drawn - plain).abs().max() > 1e-2
    theirs = pipeline_of(backbone)
    save_file(for_diffusers(tensors), tmp_path / FILE)
    theirs.load_lora_weights(tmp_path, weight_name=FILE, adapter_name="pan")
    theirs.set_adapters(["pan"], [0.7])
    torch.testing.assert_close(drawn, drawn_by(theirs, backbone), **CLOSE)


def test_a_motion_lora_is_the_sum_that_its_authors_add_to_the_weights(tmp_path: Path) -> None:
    backbone = tiny_animatediff()
    tensors = motion_lora(backbone)
    save_file(tensors, tmp_path / "pan.safetensors")
    artifact = import_file(tmp_path / "pan.safetensors", backbone)
    drawn = ours(artifact, backbone, strengths={"lora": 0.7})
    for key, down in tensors.items():
        if ".down." not in key:
            continue
        path = diffusers_name(key.partition("_lora.")[0].replace(".processor", ""))
        layer = backbone.denoiser.get_submodule(path + (".0" if path.endswith("to_out") else ""))
        layer.weight.data += 0.7 * tensors[key.replace(".down.", ".up.")] @ down
    torch.testing.assert_close(drawn, ours(None, backbone), **CLOSE)


def test_a_motion_lora_says_what_it_is_and_what_it_needs(tmp_path: Path) -> None:
    file = tmp_path / "pan.safetensors"
    save_file(motion_lora(tiny_animatediff()), file)
    (loader,) = inspect_file(file)["loaders"]
    assert loader["kind"] == "LoRA of motion modules, AnimateDiff's names"
    assert loader["base"] == "animatediff"
    for other in ("tiny", "tiny-video"):
        with pytest.raises(
            InputError, match="is of motion modules, and this network has none: open a"
        ):
            import_file(file, other)
    tensors = load_file(file)
    tensors["mid_block.motion_modules.7.temporal_transformer.proj_in_lora.up.weight"] = torch.ones(
        2
    )
    save_file(tensors, file)
    with pytest.raises(InputError, match="motion_modules.7"):
        import_file(file, tiny_animatediff())


def picture_lora(backbone: Any, kind: str) -> dict[str, torch.Tensor]:
    """Return a LoRA of layers over space and of the text encoder, in names that know no motion module."""
    rng, tensors = torch.Generator().manual_seed(8), {}
    unet = [n for n, _ in backbone.denoiser.named_modules() if n.endswith("attn1.to_q")]
    spatial = [name for name in unet if "motion_modules" not in name]
    text = ["text_model.encoder.layers.1.self_attn.q_proj", "text_model.encoder.layers.0.mlp.fc1"]
    networks = [("unet", spatial, backbone.denoiser), ("text_encoder", text, backbone.text_encoder)]
    for prefix, names, network in networks:
        for name in names:
            module: Any = network.get_submodule(name.removeprefix("text_model."))
            out, into = module.weight.shape
            down, up = torch.randn(2, into, generator=rng), torch.randn(out, 2, generator=rng)
            if kind == "kohya":
                stem = f"lora_{'unet' if prefix == 'unet' else 'te'}_{name.replace('.', '_')}"
                tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
                tensors[f"{stem}.alpha"] = torch.tensor(2.0)
            else:
                stem = f"{prefix}.{name}"
                tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    return tensors


def test_a_lora_of_stable_diffusion_moves(tmp_path: Path) -> None:
    backbone = tiny_animatediff()
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(picture_lora(backbone, "diffusers"), file)
    artifact = import_file(file, backbone)
    assert {use.name for use in artifact.recipe.uses} == {"lora:denoiser", "lora:text"}
    drawn = ours(artifact, backbone)
    theirs = pipeline_of(backbone)
    theirs.load_lora_weights(tmp_path, weight_name=file.name)
    torch.testing.assert_close(drawn, drawn_by(theirs, backbone), **CLOSE)
    theirs.unload_lora_weights()
    assert (drawn - ours(None, backbone)).abs().max() > 1e-3
    # of kohya's names for attention in the text encoder diffusers makes others than transformers 5 reads
    save_file(picture_lora(backbone, "kohya"), tmp_path / "kohya.safetensors")
    again = import_file(tmp_path / "kohya.safetensors", backbone)
    assert again.tensors.keys() == artifact.tensors.keys()
    assert all(torch.equal(tensor, again.tensors[n]) for n, tensor in artifact.tensors.items())


def test_what_a_fit_learned_of_motion_is_written_for_diffusers(tmp_path: Path) -> None:
    backbone = tiny_animatediff()
    brief = ["motion.steps=3", "motion.lr=1e-2", "video.noise_prior.inverted=0", "temporal.rank=2"]
    recipe = load_recipe("motiondirector", backbone=backbone, overrides=[*brief, "spatial.rank=2"])
    (artifact,) = fit(recipe, make_references(clips=True), backbone)
    facts = export(artifact, tmp_path / "out", to="diffusers", backbone=backbone)
    drawn, plain = (ours(what, backbone, prompt="a <thing>") for what in (artifact, None))
    assert (drawn - plain).abs().max() > 1e-3
    theirs = pipeline_of(backbone)
    theirs.load_lora_weights(tmp_path / "out", weight_name="pytorch_lora_weights.safetensors")
    prompt = f"a {facts['words']['<thing>']}"
    torch.testing.assert_close(drawn, drawn_by(theirs, backbone, prompt=prompt), **CLOSE)
    theirs.unload_lora_weights()
    again = import_file(tmp_path / "out" / "pytorch_lora_weights.safetensors", backbone)
    torch.testing.assert_close(ours(again, backbone, prompt=prompt), drawn, **CLOSE)
    with pytest.raises(CapabilityError, match="no names for motion modules"):
        export(artifact, tmp_path / "kohya", to="kohya", backbone=backbone)
