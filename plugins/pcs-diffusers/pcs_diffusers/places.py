"""Places in the residual stream of diffusers' networks, where a block edit may stand.

A transformer block adds what a layer gives to what entered the norm before it, so the stream behind the
layer is the sum of both; at its beginning and end it is the block's own input and output.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pcs_core.data import Site
from pcs_diffusers.sites import block_scales, temporal_modules


def unet_places(unet: Any) -> Iterator[Site]:
    """Yield the places of a UNet: in transformer blocks, behind transformers, resnets and blocks."""
    scales, over_time = block_scales(unet), temporal_modules(unet)
    for name, module in unet.named_modules():
        scale = next((s for prefix, s in scales.items() if name.startswith(prefix)), 1)
        kind = type(module).__name__
        if kind == "BasicTransformerBlock" and module.norm_type == "layer_norm":
            if name.startswith(over_time):
                yield from _over_time(name, module, scale)
            else:
                yield from _in_transformer_block(name, module, scale)
        elif kind == "Transformer2DModel":
            yield _behind(name, "after_transformer", scale, module.out_channels)
        elif kind == "ResnetBlock2D":
            yield _behind(name, "after_resnet", scale, module.out_channels)
    following = [*[*scales.values()][1:], 1]
    for prefix, scale in zip(scales, following, strict=True):
        name = prefix.removesuffix(".")
        resnets: Any = unet.get_submodule(name).resnets
        yield _behind(name, "after_block", scale, resnets[-1].out_channels)


JOINT_BLOCKS = ("JointTransformerBlock", "FluxTransformerBlock", "FluxSingleTransformerBlock")
"""Classes of blocks that give the text's stream and the picture's, in this order."""


def joint_places(transformer: Any, patch: int) -> Iterator[Site]:
    """Yield the places of an SD 3 or FLUX transformer: the picture's stream behind each whole block."""
    for name, module in transformer.named_modules():
        if type(module).__name__ in JOINT_BLOCKS:
            width = module.attn.query_dim
            yield _place(name, "after_feed_forward", patch, width, "tokens", name, item=1)


def _in_transformer_block(name: str, block: Any, scale: int) -> Iterator[Site]:
    width = block.attn1.query_dim
    yield _place(name, "before_self", scale, width, "tokens", name)
    behind = {"attn1": "norm1", "attn2": "norm2"}
    for layer, norm in behind.items():
        attention = getattr(block, layer)
        if attention is not None:
            place = "after_cross" if attention.is_cross_attention else "after_self"
            entry = f"{name}.{norm}"
            yield _place(name, place, scale, width, "tokens", f"{name}.{layer}", entry)
    yield _place(name, "after_feed_forward", scale, width, "tokens", name)


def _over_time(name: str, block: Any, scale: int) -> Iterator[Site]:
    for place in ("before_temporal", "after_temporal"):
        yield _place(name, place, scale, block.attn1.query_dim, "time", name)


def _behind(name: str, kind: str, scale: int, width: int) -> Site:
    return _place(name, kind, scale, width, "grid", name)


def _place(
    name: str,
    kind: str,
    scale: int,
    width: int,
    stream: str,
    layer: str,
    entry: str = "",
    item: int = 0,
) -> Site:
    return Site(
        name=f"{name}.{kind}",
        part="denoiser",
        kind=kind,
        scale=scale,
        width=width,
        stream=stream,
        layer=layer,
        entry=entry,
        item=item,
    )
