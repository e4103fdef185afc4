"""Where edits may go in a denoiser, a text encoder and an autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

TEXT_PROJECTIONS = {
    "add_q": "add_q_proj",
    "add_k": "add_k_proj",
    "add_v": "add_v_proj",
    "add_out": "to_add_out",
}
"""Layers that make the text's queries, keys, values and output at a joint site."""


def unet_sites(unet: Any) -> Iterator[Site]:
    """Yield block, attention, layer and resnet sites of a UNet2DConditionModel with their grid scale.

    Blocks stand in the order of the forward.
    """
    scales = block_scales(unet)
    for prefix, scale in scales.items():
        yield Site(prefix.removesuffix("."), "denoiser", "block", scale)
    yield from denoiser_sites(unet, lambda name: scale_in(scales, name))


def video_sites(unet: Any) -> Iterator[Site]:
    """Yield attention, layer and resnet sites of a UNet of clips with their grid scale.

    Attention over time is of kind "temporal".
    """
    scales = block_scales(unet)
    over_time = temporal_modules(unet)

    def kind_of(name: str, attention: Any) -> str:
        return "temporal" if name.startswith(over_time) else attention_kind(name, attention)

    yield from denoiser_sites(unet, lambda name: scale_in(scales, name), kind_of)


TEMPORAL = ("TransformerTemporalModel", "AnimateDiffTransformer3D")
"""Classes of transformers over time: ModelScope's, and AnimateDiff's motion modules."""


def temporal_modules(network: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the modules that act along a clip."""
    return tuple(f"{n}." for n, m in network.named_modules() if type(m).__name__ in TEMPORAL)


def joint_sites(transformer: Any, patch: int) -> Iterator[Site]:
    """Yield attention and layer sites of an SD3 or FLUX transformer; the grid is one of patches.

    Attention that reads the text too is of kind "joint", ``context`` the width of the text there: beside the
    picture, or in one stream with it.
    """

    def kind_of(name: str, attention: Any) -> str:
        alone = attention.added_kv_proj_dim is None and not in_one_stream(name)
        return "self" if alone else "joint"

    return denoiser_sites(transformer, lambda name: patch, kind_of)


def in_one_stream(name: str) -> bool:
    """Return whether an attention is of a block that gives text and picture the same layers (FLUX)."""
    return name.startswith("single_transformer_blocks.")


def denoiser_sites(
    network: nn.Module,
    scale_of: Callable[[str], int],
    kind_of: Callable[[str, Any], str] | None = None,
) -> Iterator[Site]:
    """Yield attention, resnet and layer sites of a denoiser, in the order of its modules.

    ``scale_of`` a module's name is the downsampling of the grid there; ``kind_of`` the name and module
    of an attention is its kind: "cross" or "self" (default), "joint" or "temporal".
    """
    kind_of = kind_of or attention_kind
    for name, module in network.named_modules():
        scale = scale_of(name)
        if hasattr(module, "to_q"):
            yield attention_site(name, module, kind_of(name, module), scale)
        elif type(module).__name__ == "ResnetBlock2D":
            width: Any = module.out_channels
            yield Site(name, "denoiser", "resnet", scale, width=width)
        else:
            yield from layer_site(name, module, "denoiser", scale)


def attention_kind(name: str, attention: Any) -> str:
    """Return "cross" for attention to the text, "self" for the other."""
    return "cross" if attention.is_cross_attention else "self"


def attention_site(name: str, attention: Any, kind: str, scale: int) -> Site:
    """Return the site of a module of diffusers' class ``Attention``."""
    if kind == "joint":
        context = attention.added_kv_proj_dim or attention.query_dim
    else:
        context = attention.query_dim if kind == "self" else attention.cross_attention_dim
    return Site(
        name=name,
        part="denoiser",
        kind=kind,
        scale=scale,
        width=attention.query_dim,
        context=context,
        heads=attention.heads,
    )


def scale_in(scales: Mapping[str, int], name: str) -> int:
    """Return the downsampling at a module by the prefixes of blocks, 1 outside of them."""
    return next((s for prefix, s in scales.items() if name.startswith(prefix)), 1)


def text_attention_sites(encoder: nn.Module, unread: tuple[str, ...] = ()) -> Iterator[Site]:
    """Yield the self-attention sites of CLIP text encoders, but those below the modules ``unread``."""
    for name, module in encoder.named_modules():
        if type(module).__name__ == "CLIPAttention" and not name.startswith(unread):
            width: Any = module.embed_dim
            heads: Any = module.num_heads
            yield Site(name, "text", "self", width=width, context=width, heads=heads)


def layer_sites(root: nn.Module, part: str) -> Iterator[Site]:
    """Yield the weighted layers of any module tree."""
    for name, module in root.named_modules():
        yield from layer_site(name, module, part, 1)


def layer_site(name: str, module: nn.Module, part: str, scale: int) -> Iterator[Site]:
    """Yield the site of ``module`` if it is a weighted layer."""
    for cls, kind in _LAYER_KINDS:
        if isinstance(module, cls) and getattr(module, "weight", None) is not None:
            weight: Any = module.weight
            shape = tuple(weight.shape)
            if isinstance(module, nn.Linear):  # one that is stored in few bits is packed
                shape = (module.out_features, module.in_features)
            yield Site(name, part, kind, scale, width=shape[0], shape=shape)
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
