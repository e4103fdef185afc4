"""IP-Adapters of FLUX, in XLabs' layout and diffusers': we draw what diffusers draws with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pcs_core import sample
from pcs_core.backbone import Attachment
from pcs_core.data import Concept
from pcs_core.errors import InputError
from pcs_diffusers import vision
from pcs_diffusers.flux_tokens import packed
from pcs_diffusers.tiny import tiny
from pcs_diffusers.tiny_flux import tiny_flux
from pcs_engine.randomness import generator
from pcs_engine.restoring import restore
from pcs_formats.adapter_export import write_ip_adapter
from pcs_formats.importing import import_file, inspect_file

TOKENS = 4


def released(transformer: Any, feature: int, *, xlabs: bool) -> dict[str, torch.Tensor]:
    """Return a plain adapter of ``transformer`` in either layout."""
    rng, config = torch.Generator().manual_seed(4), transformer.config
    width, inner = config.joint_attention_dim, transformer.inner_dim

    def drawn(*shape: int, by: float = 0.2) -> torch.Tensor:
        return by * torch.randn(*shape, generator=rng)

    proj, blocks = (
        ("ip_adapter_proj_model", "double_blocks") if xlabs else ("image_proj", "ip_adapter")
    )
    tensors = {
        f"{proj}.proj.weight": drawn(TOKENS * width, feature),
        f"{proj}.proj.bias": drawn(TOKENS * width),
        f"{proj}.norm.weight": 1 + drawn(width),
        f"{proj}.norm.bias": drawn(width),
    }
    for number in range(config.num_layers):
        for which in "kv":
            name = f"processor.ip_adapter_double_stream_{which}_proj" if xlabs else f"to_{which}_ip"
            tensors[f"{blocks}.{number}.{name}.weight"] = drawn(inner, width)
            tensors[f"{blocks}.{number}.{name}.bias"] = drawn(inner)
    return tensors


@pytest.mark.parametrize("xlabs", [True, False])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_it_draws_as_diffusers_does(
    xlabs: bool, scale: float, pipeline_of: Any, tmp_path: Path
) -> None:
    backbone: Any = tiny_flux()
    encoder = vision.tiny_image()
    file = tmp_path / "adapter.safetensors"
    save_file(released(backbone.denoiser, encoder.width, xlabs=xlabs), file)
    adapter = import_file(file, backbone)
    vector = torch.randn(1, encoder.width, generator=torch.Generator().manual_seed(8))
    artifact = replace(
        adapter,
        features={"image": vector},
        concepts=(Concept("fido", "<fido>", "dog"),),
        subject="fido",
    )
    numbers: dict[str, Any] = {"steps": 2, "scale": scale}
    if scale > 1:
        numbers["negative"] = "snow"
    ours = sample(
        artifact, backbone, "a photo of a <fido>", strengths={"image.scale": 0.7}, **numbers
    )
    plain = sample(None, backbone, "a photo of a dog", **numbers)
    assert (ours - plain).abs().max() > 1e-2
    pipe = pipeline_of(backbone)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_ip_adapter(
        str(tmp_path), weight_name=file.name, image_encoder_pretrained_model_name_or_path=None
    )
    pipe.set_ip_adapter_scale(0.7)
    side = backbone.card.size[0]
    negative = {"true_cfg_scale": scale, "negative_prompt": "snow"} if scale > 1 else {}
    theirs = pipe(
        "a photo of a dog",
        latents=packed(torch.randn(1, 16, side // 2, side // 2, generator=generator(0, "noise"))),
        num_inference_steps=2,
        height=side,
        width=side,
        max_sequence_length=backbone.t5_length,
        ip_adapter_image_embeds=[vector[None]],
        negative_ip_adapter_image_embeds=[torch.zeros_like(vector)[None]],
        output_type="pt",
        **negative,
    ).images
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    pipe.unload_ip_adapter()
    fresh = tiny_flux()
    with Attachment(fresh, restore(artifact, fresh, 0)[1]) as net:
        (name,) = write_ip_adapter(net, tmp_path / "out", artifact.recipe)["files"]
    written = load_file(tmp_path / "out" / name)
    expected = released(fresh.denoiser, encoder.width, xlabs=False)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in expected)


def test_no_key_goes_unused_and_each_is_called_as_in_the_file(tmp_path: Path) -> None:
    backbone: Any = tiny_flux()
    tensors = released(backbone.denoiser, 24, xlabs=True)
    file = tmp_path / "xlabs.safetensors"
    save_file(tensors, file)
    (loader,) = inspect_file(file, backbone)["loaders"]
    assert loader["matched"] == loader["keys"] == len(tensors)
    bias = "double_blocks.1.processor.ip_adapter_double_stream_v_proj.bias"
    tensors[bias.replace("1", "7")] = tensors.pop(bias)
    save_file(tensors, file)
    with pytest.raises(
        InputError,
        match=r"'double_blocks.7.processor.ip_adapter_double_stream_v_proj.bias' is of no block .* counts 2"
        r".*'double_blocks.1.processor.ip_adapter_double_stream_k_proj.weight'.*"
        r"'double_blocks.1.processor.ip_adapter_double_stream_v_proj.bias' is missing",
    ):
        import_file(file, backbone)
    with pytest.raises(InputError, match=r"double_blocks.*no attention of this network"):
        import_file(file, tiny())
