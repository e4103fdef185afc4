"""Where edits may go in a Stable-Diffusion-family UNet and its text encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from pcs_core.data import Site

_LAYER_KINDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Linear, "linear"),
    (nn.Conv2d, "conv"),
    (nn.GroupNorm, "norm"),
    (nn.LayerNorm, "norm"),
    (nn.Embedding, "embedding"),
)


def unet_sites(unet: Any) -> Iterator[Site]:
    """Yield block, attention, layer and resnet sites of a UNet2DConditionModel with their grid scale.

    Blocks stand in the order of the forward.
    """
    scales = block_scales(unet)
    for prefix, scale in scales.items():
        yield Site(prefix.removesuffix("."), "denoiser", "block", scale)
    for name, module in unet.named_modules():
        scale = next((s for prefix, s in scales.items() if name.startswith(prefix)), 1)
        if hasattr(module, "to_q") and hasattr(module, "is_cross_attention"):
            yield Site(
                name=name,
                part="denoiser",
                kind="cross" if module.is_cross_attention else "self",
                scale=scale,
                width=module.query_dim,
                context=module.cross_attention_dim,
                heads=module.heads,
            )
        elif type(module).__name__ == "ResnetBlock2D":
            yield Site(name, "denoiser", "resnet", scale, width=module.out_channels)
        else:
            yield from layer_site(name, module, "denoiser", scale)


def layer_sites(root: nn.Module, part: str) -> Iterator[Site]:
    """Yield the weighted layers of any module tree."""
    for name, module in root.named_modules():
        yield from layer_site(name, module, part, 1)


def layer_site(name: str, module: nn.Module, part: str, scale: int) -> Iterator[Site]:
    """Yield the site of ``module`` if it is a weighted layer."""
    for cls, kind in _LAYER_KINDS:
        if isinstance(module, cls) and getattr(module, "weight", None) is not None:
            weight: Any = module.weight
            yield Site(name, part, kind, scale, width=weight.shape[0], shape=tuple(weight.shape))
            return


def block_scales(unet: Any) -> dict[str, int]:
    """Return name prefix -> downsampling of the grid inside that block, without running the net."""
    scales: dict[str, int] = {}
    scale = 1
    for i, block in enumerate(unet.down_blocks):
        scales[f"down_blocks.{i}."] = scale
        if getattr(block, "downsamplers", None):
            scale *= 2
    scales["mid_block."] = scale
    for i, block in enumerate(unet.up_blocks):
        scales[f"up_blocks.{i}."] = scale
        if getattr(block, "upsamplers", None):
            scale //= 2
    return scales
