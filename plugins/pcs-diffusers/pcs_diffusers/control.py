"""ControlNet for a UNet: a copy of its first half, or a narrower network (arXiv:2302.05543)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class ControlNetwork(nn.Module):
    """diffusers' ControlNetModel, called the way the core calls control networks.

    A narrower one is followed by 1x1 convolutions, zero at the start, that bring its residuals to the
    UNet's channels. A copy of SDXL is told pooled text as the denoiser is (zeros where none is given), and
    as sizes those of the backbone's own pictures.
    """

    def __init__(self, unet: Any, vae: Any, channels: int, width: float) -> None:
        super().__init__()
        from diffusers import ControlNetModel

        # the image comes down to the size of the latents, halved once per step of the VAE
        halvings = len(vae.config.block_out_channels) - 1
        steps = (16, 32, 96, 256)[: halvings + 1] if halvings < 4 else (16, 32, 96, 256, 256)
        options = {
            "conditioning_channels": channels,
            "conditioning_embedding_out_channels": steps,
        }
        takes_sizes = unet.config.addition_embed_type == "text_time" and width >= 1.0
        sizes = 6 * unet.config.addition_time_embed_dim if takes_sizes else 0
        self.pooled = (
            unet.config.projection_class_embeddings_input_dim - sizes if takes_sizes else 0
        )
        self.reads_pooled = self.pooled > 0
        self.side = float(unet.config.sample_size * 2**halvings)
        self.widen = nn.ModuleList()
        self.middle: nn.Module = nn.Identity()
        if width >= 1.0:
            self.network = ControlNetModel.from_unet(unet, load_weights_from_unet=True, **options)
            return
        config = unet.config
        groups = config.norm_num_groups
        narrow = tuple(
            max(groups, int(c * width) // groups * groups) for c in config.block_out_channels
        )
        self.network = ControlNetModel(
            in_channels=config.in_channels,
            down_block_types=config.down_block_types,
            block_out_channels=narrow,
            layers_per_block=config.layers_per_block,
            cross_attention_dim=config.cross_attention_dim,
            attention_head_dim=config.attention_head_dim,
            norm_num_groups=groups,
            use_linear_projection=config.use_linear_projection,
            transformer_layers_per_block=config.transformer_layers_per_block,
            **options,
        )
        wide = _residual_channels(config, config.block_out_channels)
        for small, large in zip(_residual_channels(config, narrow), wide, strict=True):
            self.widen.append(_zero(nn.Conv2d(small, large, 1)))
        self.middle = _zero(nn.Conv2d(narrow[-1], config.block_out_channels[-1], 1))
        # the network's own zero convolutions would leave these ones without a gradient
        for block in (*self.network.controlnet_down_blocks, self.network.controlnet_mid_block):
            nn.init.eye_(block.weight.data.view(block.weight.shape[:2]))

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        text: Tensor,
        image: Tensor,
        pooled: Tensor | None = None,
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Return residuals of the down blocks, in order, and of the middle block.

        ``image`` [b 3 h w] in [0, 1]; ``pooled`` [b d] is read by a copy of SDXL alone.
        """
        added = {}
        if self.pooled:
            sizes = latents.new_tensor([self.side, self.side, 0.0, 0.0, self.side, self.side])
            if pooled is None:
                pooled = latents.new_zeros(latents.shape[0], self.pooled)
            added = {"text_embeds": pooled, "time_ids": sizes.expand(latents.shape[0], -1)}
        down, middle = self.network(
            latents,
            time,
            encoder_hidden_states=text,
            controlnet_cond=image,
            added_cond_kwargs=added or None,
            return_dict=False,
        )
        if len(self.widen):
            down = [conv(residual) for conv, residual in zip(self.widen, down, strict=True)]
        return down, self.middle(middle)


def _residual_channels(config: Any, channels: Sequence[int]) -> list[int]:
    """Return the channels of the UNet's skip connections, in order."""
    widths = [channels[0]]
    for i, width in enumerate(channels):
        widths += [width] * config.layers_per_block
        if i + 1 < len(channels):
            widths.append(width)  # the downsampler's
    return widths


@torch.no_grad()
def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    conv.weight.zero_()
    assert conv.bias is not None
    conv.bias.zero_()
    return conv
