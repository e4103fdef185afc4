"""A control branch and the denoiser with its residuals predict what diffusers' ControlNet and UNet predict."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from torch import nn

from pcs_core import open_backbone
from pcs_core.data import Conditioning
from pcs_fusion.control_branch import PointBranch
from pcs_fusion.key_points import draw_face

POINTS = torch.tensor([[[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]]])


def image(points: torch.Tensor) -> torch.Tensor:
    return draw_face(points, (32, 32), 0.05, 0.03)


@pytest.mark.parametrize("id", ["tiny", "tiny-sdxl"])
def test_branch_and_denoiser_predict_as_diffusers(id: str) -> None:
    backbone: Any = open_backbone(id)
    unet, xl = backbone.denoiser, id == "tiny-sdxl"
    network: Any = backbone.control_network(3, 1.0)
    torch.manual_seed(2)
    for conv in (*network.network.controlnet_down_blocks, network.network.controlnet_mid_block):
        nn.init.normal_(conv.weight, std=0.2)  # as after training: they begin at zero
    theirs = ControlNetModel.from_config(network.network.config)
    theirs.load_state_dict(network.network.state_dict())
    theirs.eval()
    network.eval()
    width = unet.config.cross_attention_dim
    latents, time = torch.randn(2, 4, 16, 16), torch.tensor([700, 40])
    text, tokens = torch.randn(2, 5, width), torch.randn(2, 3, width)
    pooled = torch.randn(2, 48) if xl else None
    cond = Conditioning(
        text=text,
        pooled=pooled,
        streams={"face": tokens},
        extra={"control.scale": torch.tensor([0.8, 0.8])},
    )
    branch = PointBranch("control", network, "face", image, POINTS)
    with torch.no_grad():
        ours = branch.residuals(latents, time, cond)
        actual = backbone.denoise(latents, time, cond, residuals=ours)
    sizes = torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]]).expand(2, -1)
    added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}} if xl else {}
    with torch.no_grad():
        down, middle = theirs(
            latents,
            time,
            encoder_hidden_states=tokens,
            controlnet_cond=image(POINTS).expand(2, -1, -1, -1),
            conditioning_scale=0.8,
            return_dict=False,
            **added,
        )
        expected = unet(
            latents,
            time,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            **added,
        ).sample
        plain = unet(latents, time, encoder_hidden_states=text, **added).sample
    for a, b in zip([*ours[0], ours[1]], [*down, middle], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert float((actual - plain).abs().max()) > 1e-3, "the branch says something"
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
