"""SD 3's and FLUX's layers in the naming of the releases, where one layer makes queries, keys and values.

kohya's and ComfyUI's files have one update for the three: its first factor is all of theirs, the second one's
rows are split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pcs_core.errors import InputError
from pcs_formats.flux_names import flux_paths
from pcs_formats.layer_parts import LayerParts

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Site

SIDES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x_block": {
        "attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "attn.proj": ("attn.to_out.0",),
        "attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
        "attn2.proj": ("attn2.to_out.0",),
        "mlp.fc1": ("ff.net.0.proj",),
        "mlp.fc2": ("ff.net.2",),
        "adaLN_modulation.1": ("norm1.linear",),
    },
    "context_block": {
        "attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "attn.proj": ("attn.to_add_out",),
        "mlp.fc1": ("ff_context.net.0.proj",),
        "mlp.fc2": ("ff_context.net.2",),
        "adaLN_modulation.1": ("norm1_context.linear",),
    },
}
"""Side of a joint block -> its layers in the original -> those of diffusers."""
TURNED = "norm1_context.linear"
"""The last block's has shift and scale the other way round in diffusers, so its name is left out."""


def joined_names(backbone: Backbone) -> dict[str, tuple[Site, ...]]:
    """Return every original name of an SD 3's or FLUX's layers -> the sites whose rows it holds, in order."""
    sites = {s.name: s for s in backbone.sites if s.part == "denoiser" and s.kind == "linear"}
    paths = flux_paths if backbone.card.family.startswith("flux") else sd3_paths
    names: dict[str, tuple[Site, ...]] = {}
    for dotted, ours in paths(sites):
        for name in (f"diffusion_model.{dotted}", f"lora_unet_{dotted.replace('.', '_')}"):
            names[name] = tuple(sites[path] for path in ours)
    return names


def sd3_paths(names: Mapping[str, object]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield original names with the paths of diffusers whose rows they hold in order; ``names``: all paths."""
    blocks = [int(m[1]) for n in names if (m := re.match(r"transformer_blocks\.(\d+)\.", n))]
    for block in range(max(blocks, default=-1) + 1):
        for side, layers in SIDES.items():
            for original, ours in layers.items():
                paths = tuple(f"transformer_blocks.{block}.{path}" for path in ours)
                turned = ours == (TURNED,) and block == max(blocks)
                if all(path in names for path in paths) and not turned:
                    yield f"joint_blocks.{block}.{side}.{original}", paths


def split_rows(layer: LayerParts, sites: Sequence[Site]) -> list[LayerParts]:
    """Return each site's own part of a joined layer's update.

    Raises
    ------
    InputError
        It is no plain product of two factors, or its rows are not those of the sites.
    """
    if len(sites) == 1:
        return [layer]
    rows = [site.shape[0] for site in sites]
    if set(layer.parts) - {"alpha"} != {"down", "up"}:
        key = next(iter(layer.keys.values()))
        raise InputError(
            f"{key!r} is of a layer that makes queries, keys and values at once: of such ones low-rank updates "
            f"are read, and this one holds {', '.join(sorted(layer.parts))}"
        )
    up: Any = layer.parts["up"]
    if up.shape[0] != sum(rows):
        raise InputError(
            f"{layer.keys['up']!r} has {up.shape[0]} rows, and this network's layers {sum(rows)}: it is made "
            "for another base"
        )
    return [LayerParts({**layer.parts, "up": part}, dict(layer.keys)) for part in up.split(rows)]
