"""A UNet's layers in the naming of the original release, which single files and kohya's files for SDXL have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pcs_core.errors import CapabilityError

INNER: tuple[tuple[str, str], ...] = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
)
"""Layers of a resnet, diffusers' name and the original's."""
OUTER: Mapping[str, str] = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def original_path(name: str, unet: Any) -> str:
    """Return the path of a UNet's layer in the original release's naming, which kohya has for SDXL."""
    if name in OUTER:
        return OUTER[name]
    layers = int(unet.config.layers_per_block)
    rules: tuple[tuple[str, Callable[..., str]], ...] = (
        (
            r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.",
            lambda i, kind, j: f"input_blocks.{i * (layers + 1) + j + 1}.{_slot(kind)}.",
        ),
        (
            r"down_blocks\.(\d+)\.(downsamplers)\.0\.conv",
            lambda i, _: f"input_blocks.{(i + 1) * (layers + 1)}.0.op",
        ),
        (r"mid_block\.(attentions)\.0\.", lambda _: "middle_block.1."),
        (r"mid_block\.(resnets)\.(\d+)\.", lambda _, j: f"middle_block.{2 * j}."),
        (
            r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.",
            lambda i, kind, j: f"output_blocks.{i * (layers + 1) + j}.{_slot(kind)}.",
        ),
        (
            r"up_blocks\.(\d+)\.(upsamplers)\.0\.conv",
            lambda i, _: (
                f"output_blocks.{i * (layers + 1) + layers}."
                f"{2 if hasattr(unet.up_blocks[i], 'attentions') else 1}.conv"
            ),
        ),
    )
    for pattern, place in rules:
        match = re.match(pattern, name)
        if match is not None:
            given = [int(g) if g.isdigit() else g for g in match.groups()]
            rest = name[match.end() :]
            if "resnets" in given:
                for ours, theirs in INNER:
                    if rest.startswith(ours):
                        rest = theirs + rest[len(ours) :]
                        break
            return place(*given) + rest
    raise CapabilityError(f"denoiser:{name} has no name in the original release's files")


def _slot(kind: str) -> int:
    return 0 if kind == "resnets" else 1
