"""ControlNets and T2I-Adapters as they are published: a control picture steers us as it steers diffusers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    T2IAdapter,
)
from safetensors.torch import load_file, save_file
from torch import nn

from pcs_core import export, open_backbone, sample
from pcs_core.data import Layout
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.skeletons import sd15, sdxl
from pcs_diffusers.tiny import tiny, tiny_sd3, tiny_sdxl
from pcs_engine.randomness import generator
from pcs_folders.pictures import write_png
from pcs_formats.importing import import_file, inspect_file
from pcs_formats.origin import recorded
from pcs_formats.picture_control_files import original_control
from pcs_testing import pixels

CLOSE: Any = {"rtol": 1e-4, "atol": 1e-4}
FILE = "diffusion_pytorch_model.safetensors"
PROMPT = "a red toy"
SKELETONS = {"sd": sd15, "sdxl": sdxl}
PIPELINES = {
    ("sd", "controlnet"): StableDiffusionControlNetPipeline,
    ("sd", "adapter"): StableDiffusionAdapterPipeline,
    ("sdxl", "controlnet"): StableDiffusionXLControlNetPipeline,
    ("sdxl", "adapter"): StableDiffusionXLAdapterPipeline,
}


def control_network(backbone: Any) -> Any:
    """Return a control network of a backbone as after training."""
    steps = (16, 32, 96, 256)[: len(backbone.vae.config.block_out_channels)]
    network = ControlNetModel.from_unet(
        backbone.denoiser, conditioning_embedding_out_channels=steps
    )
    torch.manual_seed(2)
    for conv in (*network.controlnet_down_blocks, network.controlnet_mid_block):
        nn.init.normal_(conv.weight, std=0.2)  # they begin at zero
    nn.init.normal_(network.controlnet_cond_embedding.conv_out.weight, std=0.2)
    return network.eval()


def adapter_network(backbone: Any, kind: str, channels: int = 3) -> Any:
    """Return a T2I-Adapter of one of the published kinds, its maps large enough to be seen."""
    widths = list(backbone.denoiser.config.block_out_channels)
    options: dict[str, Any] = {"channels": widths, "downscale_factor": 8}
    if kind == "light_adapter":
        options = {"channels": widths[:3], "num_res_blocks": 4}
    elif kind == "full_adapter_xl":
        options = {"channels": [*widths, widths[-1]], "downscale_factor": 16}
    torch.manual_seed(3)
    return T2IAdapter(in_channels=channels, adapter_type=kind, **options).eval()


def lora_tensors(backbone: Any) -> dict[str, torch.Tensor]:
    """Return a LoRA of one layer."""
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    shape = backbone.denoiser.get_submodule(path).weight.shape
    tensors = {f"unet.{path}.lora_A.weight": torch.randn(2, shape[1])}
    return {**tensors, f"unet.{path}.lora_B.weight": torch.randn(shape[0], 2)}


def configuration(network: Any) -> Any:
    """Return what a network's file of settings says, as JSON gives it back."""
    said = {k: v for k, v in network.config.items() if not k.startswith("_")}
    return json.loads(json.dumps(said))


def control_picture(side: int) -> torch.Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(6))


def compared(
    backbone: Any,
    file: Path,
    kind: str,
    network: Any,
    pipe: Any,
    picture: torch.Tensor,
    **more: Any,
) -> None:
    """Draw with the imported file and with diffusers' pipeline, and compare."""
    artifact = import_file(file, backbone)
    side, numbers = backbone.card.size[0], {"steps": 2, "scale": 3.0, "scheduler": "euler"}
    ours = {
        strength: sample(
            artifact,
            backbone,
            PROMPT,
            layout=Layout(picture=picture),
            strengths={"picture.scale": strength},
            **numbers,
        )
        for strength in (0.7, 0.0)
    }
    plain = sample(None, backbone, PROMPT, **numbers)
    torch.testing.assert_close(ours[0.0], plain, rtol=0, atol=1e-6)
    assert (ours[0.7] - plain).abs().max() > 1e-3, "the picture says something"
    family = backbone.card.family
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder" or kind != "adapter"}
    checked = {"requires_safety_checker": False} if family == "sd" else {}
    theirs = PIPELINES[family, kind](**parts, **{kind: network}, **checked)
    scheduler = backbone.sampler("euler", 2).scheduler
    theirs.scheduler = type(scheduler).from_config(scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    drawn = theirs(
        PROMPT,
        image=more.get("shown", picture)[None],
        latents=torch.randn(1, *backbone.latent_shape, generator=generator(0, "noise")),
        num_inference_steps=2,
        guidance_scale=3.0,
        height=side,
        width=side,
        output_type="pt",
        **{f"{kind}_conditioning_scale": 0.7},
    ).images
    if not isinstance(drawn, torch.Tensor):  # the adapter's pipeline for SD 1.5 gives arrays
        drawn = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours[0.7], drawn, **CLOSE)


@pytest.mark.parametrize("family", ["sd", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_a_control_network_steers_as_in_its_pipeline(
    family: str, pipeline_of: Any, tmp_path: Path
) -> None:
    backbone: Any = SKELETONS[family]()
    network = control_network(backbone)
    network.save_pretrained(tmp_path)
    picture = control_picture(backbone.card.size[0])
    compared(backbone, tmp_path, "controlnet", network, pipeline_of(backbone), picture)


@pytest.mark.parametrize(
    ("family", "kind", "channels"),
    [
        ("sd", "full_adapter", 3),
        ("sd", "full_adapter", 1),
        ("sd", "light_adapter", 3),
        pytest.param("sdxl", "full_adapter_xl", 3, marks=pytest.mark.slow),
    ],
)
def test_a_t2i_adapter_steers_as_in_its_pipeline(
    family: str, kind: str, channels: int, pipeline_of: Any, tmp_path: Path
) -> None:
    backbone: Any = SKELETONS[family]()
    network = adapter_network(backbone, kind, channels)
    network.save_pretrained(tmp_path)
    picture = control_picture(backbone.card.size[0])
    shown = picture
    if channels == 1:  # as Pillow's mode L
        shown = (picture * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    pipe = pipeline_of(backbone)
    compared(backbone, tmp_path, "adapter", network, pipe, picture, shown=shown)


@pytest.mark.parametrize("kind", ["control", "full_adapter"])
def test_a_base_in_fewer_bits_is_steered_too(kind: str, release: Path, tmp_path: Path) -> None:
    backbone: Any = sd15()
    network = control_network(backbone) if kind == "control" else adapter_network(backbone, kind)
    network.save_pretrained(tmp_path)
    layout = Layout(picture=control_picture(backbone.card.size[0]))
    drawn = []
    for stored in ({}, {"quantize": "bf16"}):
        opened: Any = open_backbone(str(release), **stored)
        artifact = import_file(tmp_path, opened)
        drawn.append(sample(artifact, opened, PROMPT, layout=layout, steps=2, scale=3.0))
    assert 0 < (drawn[0] - drawn[1]).abs().mean() < 0.02


@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_a_control_network_by_the_original_names(prefix: str, tmp_path: Path) -> None:
    """diffusers' reader of single files says that the file is what it should be."""
    backbone: Any = sd15()
    network = control_network(backbone)
    network.save_pretrained(tmp_path / "diffusers")
    before = network.state_dict()
    renamed = {prefix + original_control(key, backbone): t for key, t in before.items()}
    assert len(renamed) == len(before)
    file = tmp_path / "control_v11p_sd15_canny.safetensors"
    save_file(renamed, file)
    read = ControlNetModel.from_single_file(
        str(file), config=str(tmp_path / "diffusers"), local_files_only=True
    ).state_dict()
    assert read.keys() == before.keys()
    assert all(torch.equal(read[key], value) for key, value in before.items())
    ours = import_file(file, backbone)
    theirs = import_file(tmp_path / "diffusers", backbone)
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[key], value) for key, value in theirs.tensors.items())


@pytest.mark.parametrize("kind", ["full_adapter", "light_adapter"])
def test_a_t2i_adapter_by_its_authors_names(kind: str, tmp_path: Path) -> None:
    """Their files count the blocks of all maps; of the light kind a block holds its residuals as ``body``."""
    backbone: Any = sd15()
    network = adapter_network(backbone, kind)
    network.save_pretrained(tmp_path / "diffusers")
    renamed = {}
    for key, value in network.state_dict().items():
        name = key.removeprefix("adapter.")
        words = name.split(".")
        if kind == "light_adapter":
            name = name.replace(".resnets.", ".body.")
        elif words[0] == "body":
            inner = words[2] == "resnets"
            block = 2 * int(words[1]) + (int(words[3]) if inner else 0)
            name = ".".join(["body", str(block), *words[4 if inner else 2 :]])
        renamed[name] = value
    file = tmp_path / "t2iadapter_canny_sd15v2.pth"
    torch.save(renamed, file)
    ours, theirs = (import_file(f, backbone) for f in (file, tmp_path / "diffusers"))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[key], value) for key, value in theirs.tensors.items())
    (loader,) = inspect_file(file, backbone)["loaders"]
    assert loader["matched"] == loader["keys"]
    assert loader["facts"]["form"] == kind.partition("_")[0]


@pytest.mark.parametrize("kind", ["control", "adapter"])
@pytest.mark.parametrize("seed", range(6))
def test_no_key_goes_unused(kind: str, seed: int, tmp_path: Path) -> None:
    backbone: Any = tiny()
    rng = random.Random(seed)
    network = (
        control_network(backbone)
        if kind == "control"
        else adapter_network(backbone, "full_adapter", rng.choice([1, 3]))
    )
    tensors = dict(network.state_dict())
    marks = ("controlnet_cond_embedding.", "adapter.conv_in.", "adapter.body.0.")
    among = sorted(key for key in tensors if not key.startswith(marks))
    key = rng.choice(among)
    change = rng.choice(["drop", "rename", "surplus", "shape"])
    if change == "drop":
        del tensors[key]
        words = f"the key '{key}' is missing"
    elif change == "rename":
        tensors[f"{key}x"] = tensors.pop(key)
        words = f"'{key}x' is no part of .* '{key}' is the nearest"
    elif change == "surplus":
        tensors["not.there.weight"] = torch.ones(3)
        words = "'not.there.weight' is no part of"
    else:
        tensors[key] = torch.ones(*tensors[key].shape, 2)
        words = f"'{key}' is .* made for another base"
    save_file(tensors, tmp_path / FILE)
    with pytest.raises(InputError, match=words.replace(".", r"\.").replace(r"\.*", ".*")):
        import_file(tmp_path / FILE, backbone)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"controlnet_conditioning_channel_order": "bgr"}, "'bgr': 'rgb' alone is read"),
        ({"global_pool_conditions": True}, "global_pool_conditions = True"),
        ({"_class_name": "ControlNetUnionModel"}, "is of a ControlNetUnionModel"),
    ],
)
def test_what_a_configuration_asks_beyond_is_refused(
    values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    backbone: Any = tiny()
    control_network(backbone).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    with pytest.raises(InputError, match=words):
        import_file(tmp_path, backbone)


def test_networks_for_other_bases_are_refused(tmp_path: Path) -> None:
    control_network(tiny_sdxl()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"is no part of|made for another base"):
        import_file(tmp_path, tiny())
    with pytest.raises(InputError, match="no control network for the family 'sd3'"):
        import_file(tmp_path, tiny_sd3())
    save_file({"controlnet_blocks.0.weight": torch.ones(2, 2)}, tmp_path / "flux.safetensors")
    with pytest.raises(InputError, match="for SD 3 or FLUX"):
        import_file(tmp_path / "flux.safetensors", tiny())


def test_commands_draw_by_a_picture_alone_and_beside_a_subject(
    run_pcs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone: Any = tiny()
    control_network(backbone).save_pretrained(tmp_path / "files")
    write_png(control_picture(backbone.card.size[0]), tmp_path / "edges.png")
    (tmp_path / "layout.json").write_text('{"picture": "edges.png"}')
    pose, style = tmp_path / "pose", tmp_path / "style"
    assert run_pcs("import", tmp_path / "files", "--backbone", "tiny", "--out", pose) == 0
    save_file(lora_tensors(backbone), tmp_path / "style.safetensors")
    words = ("import", tmp_path / "style.safetensors", "--backbone", "tiny", "--out", style)
    assert run_pcs(*words) == 0
    capsys.readouterr()
    drawn: dict[str, bytes] = {}
    for name, more in {
        "none": (),
        "steered": ("--layout", tmp_path / "edges.png"),
        "by-json": ("--layout", tmp_path / "layout.json"),
        "off": ("--layout", tmp_path / "edges.png", "--strength", "picture.scale=0"),
        "both": ("--layout", tmp_path / "edges.png", "--add", style),
    }.items():
        out = tmp_path / f"drawn-{name}"
        words = ("sample", pose, PROMPT, "-n", 1, "--steps", 2, *more, "--out", out)
        assert run_pcs(*words) == 0
        said = capsys.readouterr().err
        assert ("no control picture is given (--layout PICTURE)" in said) == (name == "none")
        drawn[name] = pixels(out / "000.png")
    assert drawn["steered"] == drawn["by-json"]
    assert drawn["off"] == drawn["none"]
    assert len({drawn[name] for name in ("none", "steered", "both")}) == 3
    beside = ("--add", pose, "--layout", tmp_path / "edges.png", "--strength")
    for name, more in {
        "style": (),
        "beside": (*beside, "picture.scale=0.8"),
        "beside-off": (*beside, "picture.scale=0"),
    }.items():
        out = tmp_path / f"drawn-{name}"
        assert run_pcs("sample", style, PROMPT, "-n", 1, "--steps", 2, *more, "--out", out) == 0
        drawn[name] = pixels(out / "000.png")
    assert drawn["beside-off"] == drawn["style"] != drawn["beside"]
    facts = json.loads((tmp_path / "drawn-steered" / "sample.json").read_text())
    assert len(facts["layout"]["picture"]) == 64
    layout = ("--layout", tmp_path / "edges.png", "--out", tmp_path / "refused")
    assert run_pcs("sample", style, PROMPT, "-n", 1, *layout) == 2
    assert "reads no control picture" in capsys.readouterr().err
    (tmp_path / "boxes.json").write_text('{"boxes": [{"phrase": "toy", "box": [0, 0, 1, 1]}]}')
    boxes = ("--layout", tmp_path / "boxes.json", "--out", tmp_path / "refused")
    assert run_pcs("sample", pose, PROMPT, "-n", 1, *boxes) == 2
    assert "reads no layout" in capsys.readouterr().err


def test_pictures_of_other_sizes_are_scaled_and_drawings_of_other_sizes_too(tmp_path: Path) -> None:
    backbone: Any = tiny()
    control_network(backbone).save_pretrained(tmp_path)
    artifact = import_file(tmp_path, backbone)
    side = backbone.card.size[0]
    flat = torch.full((3, side, side), 0.25)
    numbers: Any = {"steps": 2, "size": (side, 2 * side)}
    small = sample(artifact, backbone, PROMPT, layout=Layout(picture=flat), **numbers)
    large = flat.repeat(1, 3, 2)
    again = sample(artifact, backbone, PROMPT, layout=Layout(picture=large), **numbers)
    assert small.shape[-2:] == (side, 2 * side)
    torch.testing.assert_close(small, again, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="the layout's picture has shape"):
        sample(artifact, backbone, PROMPT, layout=Layout(picture=flat[0]), steps=2)


@pytest.mark.parametrize(
    "kind",
    [
        "control",
        "full_adapter",
        "light_adapter",
        pytest.param("full_adapter_xl", marks=pytest.mark.slow),
    ],
)
def test_what_is_exported_is_the_file_and_diffusers_loads_it(kind: str, tmp_path: Path) -> None:
    backbone: Any = sdxl() if kind == "full_adapter_xl" else sd15()
    control = kind == "control"
    network = control_network(backbone) if control else adapter_network(backbone, kind)
    network.save_pretrained(tmp_path / "given")
    artifact = import_file(tmp_path / "given", backbone)
    export(artifact, tmp_path / "out", to="controlnet", backbone=backbone)
    before, after = (load_file(tmp_path / name / FILE) for name in ("given", "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    loaded = type(network).from_pretrained(tmp_path / "out")
    assert configuration(loaded) == configuration(network)
    again = import_file(tmp_path / "out", backbone)
    assert again.tensors.keys() == artifact.tensors.keys()
    assert recorded(tmp_path / "out" / FILE)["imported"]["kind"] == again.extra["imported"]["kind"]


def test_what_is_no_control_network_is_not_exported_as_one(tmp_path: Path) -> None:
    backbone: Any = tiny()
    save_file(lora_tensors(backbone), tmp_path / "style.safetensors")
    style = import_file(tmp_path / "style.safetensors", backbone)
    with pytest.raises(CapabilityError, match="'lora:denoiser' is no part of one"):
        export(style, tmp_path / "out", to="controlnet", backbone=backbone)
