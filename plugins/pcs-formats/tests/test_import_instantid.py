"""InstantID's two networks in their published places draw what diffusers' draw, wired as in its pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from pcs_core import sample
from pcs_core.backbone import Attachment
from pcs_core.data import Concept
from pcs_core.errors import InputError
from pcs_diffusers.tiny import tiny, tiny_sdxl
from pcs_engine.randomness import generator
from pcs_engine.restoring import restore
from pcs_formats.adapter_export import write_ip_adapter
from pcs_formats.control_files import FOLDER
from pcs_formats.importing import import_file, inspect_file
from pcs_fusion.key_points import draw_face

POINTS = torch.tensor([[[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]]])
MODEL = "diffusion_pytorch_model.safetensors"


def write_release(backbone: Any, folder: Path, released: Any) -> Path:
    """Write ``ip-adapter.bin``, and the control network by diffusers' own saving."""
    file = folder / "ip-adapter.bin"
    torch.save(released("plus", backbone.denoiser, 512), file)
    # its own stem, as from_unet makes it of a UNet
    steps = (16, 32, 96, 256)[: len(backbone.vae.config.block_out_channels)]
    network = ControlNetModel.from_unet(
        backbone.denoiser, conditioning_channels=3, conditioning_embedding_out_channels=steps
    )
    torch.manual_seed(2)
    for conv in (*network.controlnet_down_blocks, network.controlnet_mid_block):
        nn.init.normal_(conv.weight, std=0.2)  # as after training: they begin at zero
    nn.init.normal_(network.controlnet_cond_embedding.conv_out.weight, std=0.2)
    network.save_pretrained(folder / FOLDER)
    return file


def drawn_by_diffusers(
    pipe: Any, backbone: Any, file: Path, vector: torch.Tensor, strengths: tuple[float, float]
) -> torch.Tensor:
    """Draw with diffusers' pipeline, whose control network reads the face in place of the text."""
    network: Any = ControlNetModel.from_pretrained(file.parent / FOLDER)
    pipe = StableDiffusionXLControlNetPipeline(**pipe.components, controlnet=network)
    pipe.scheduler = type(pipe.scheduler).from_config(backbone.sampler("euler", 2).scheduler.config)
    pipe.load_ip_adapter(
        str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=None
    )
    pipe.set_ip_adapter_scale(strengths[0])
    pipe.set_progress_bar_config(disable=True)
    pair = torch.stack([torch.zeros_like(vector), vector])[:, None]
    (layer,) = pipe.unet.encoder_hid_proj.image_projection_layers
    with torch.no_grad():
        tokens = layer(pair[:, 0])
    as_it_is = network.forward
    network.forward = lambda *args, **given: as_it_is(
        *args, **{**given, "encoder_hidden_states": tokens}
    )
    side = backbone.card.size[0]
    return pipe(
        "a photo of a man",
        image=draw_face(POINTS, (side, side), 10 / 1024, 4 / 1024),
        controlnet_conditioning_scale=strengths[1],
        ip_adapter_image_embeds=[pair],
        latents=torch.randn(1, *backbone.latent_shape, generator=generator(0, "noise")),
        num_inference_steps=2,
        guidance_scale=3.0,
        height=side,
        width=side,
        output_type="pt",
    ).images


def test_instantid_draws_as_its_pipeline_does(
    pipeline_of: Any, released: Any, tmp_path: Path
) -> None:
    backbone: Any = tiny_sdxl()
    file = write_release(backbone, tmp_path, released)
    adapter = import_file(file, backbone)
    vector = torch.randn(1, 512, generator=torch.Generator().manual_seed(8))
    artifact = replace(
        adapter,
        features={"image": vector, "control.points": POINTS[0]},
        concepts=(Concept("fido", "<fido>", "man"),),
        subject="fido",
    )
    drawings = [
        sample(
            artifact,
            backbone,
            "a photo of a <fido>",
            strengths={"image.scale": adapter_strength, "control.scale": control_strength},
            scheduler="euler",
            steps=2,
            scale=3.0,
        )
        for adapter_strength, control_strength in ((0.8, 0.7), (0.8, 0.0), (0.0, 0.7))
    ]
    for other in drawings[1:]:
        assert (drawings[0] - other).abs().max() > 1e-3, "both networks say something"
    theirs = drawn_by_diffusers(pipeline_of(backbone), backbone, file, vector, (0.8, 0.7))
    torch.testing.assert_close(drawings[0], theirs, rtol=1e-4, atol=1e-4)
    fresh = tiny_sdxl()
    with Attachment(fresh, restore(artifact, fresh, 0)[1]) as net:
        write_ip_adapter(net, tmp_path / "out", artifact.recipe)
    again = load_file(tmp_path / "out" / FOLDER / MODEL)
    before = load_file(tmp_path / FOLDER / MODEL)
    assert again.keys() == before.keys()
    assert all(torch.equal(again[key], before[key]) for key in before)
    assert (
        ControlNetModel.from_pretrained(tmp_path / "out" / FOLDER).config.conditioning_channels == 3
    )
    exported = import_file(tmp_path / "out" / "ip-adapter.safetensors", tiny_sdxl())
    assert exported.tensors.keys() == adapter.tensors.keys()
    assert all(torch.equal(exported.tensors[k], t) for k, t in adapter.tensors.items())


def test_no_key_of_the_control_network_goes_unused(released: Any, tmp_path: Path) -> None:
    backbone: Any = tiny()
    file = write_release(backbone, tmp_path, released)
    (loader,) = inspect_file(file, backbone)["loaders"]
    assert loader["kind"] == "InstantID"
    assert loader["matched"] == loader["keys"]
    assert loader["facts"]["image encoder"] == "face.id"
    assert loader["facts"]["control network"].startswith(f"{FOLDER}/{MODEL}, sha256 ")
    weights = tmp_path / FOLDER / MODEL
    tensors = load_file(weights)
    tensors["time_embedding.linear_9.bias"] = tensors.pop("time_embedding.linear_1.bias")
    save_file(tensors, weights)
    with pytest.raises(
        InputError,
        match=r"'time_embedding.linear_9.bias' is no part .*'time_embedding.linear_1.bias' is the nearest; the "
        r"key '.*time_embedding.linear_1.bias' is missing",
    ):
        import_file(file, backbone)
    wide = write_release(tiny_sdxl(), tmp_path, released)
    with pytest.raises(InputError, match="made for another base"):
        import_file(wide, backbone)


def test_the_adapter_alone_is_taken_and_said(released: Any, tmp_path: Path) -> None:
    backbone: Any = tiny()
    file = write_release(backbone, tmp_path, released)
    (tmp_path / FOLDER).rename(tmp_path / "elsewhere")
    adapter = import_file(file, backbone)
    assert [use.name for use in adapter.recipe.uses][-1] == "attention.imported_adapter"
    (note,) = adapter.extra["imported"]["notes"]
    assert f"a folder {FOLDER!r} beside the adapter, and there is none" in note
