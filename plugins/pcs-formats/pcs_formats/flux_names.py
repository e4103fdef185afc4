"""FLUX's layers in the naming of the original release, which kohya's and ComfyUI's files have.

There one layer makes queries, keys and values, in blocks of one stream the first feed-forward layer's rows too.
The numbers of a block's modulation stand in the order of diffusers, those in front of the output do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

TWO_STREAMS: Mapping[str, tuple[str, ...]] = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
}
ONE_STREAM: Mapping[str, tuple[str, ...]] = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
OUTER: Mapping[str, str] = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
"""The original's layers -> those of diffusers; ``final_layer.adaLN_modulation`` has shift and scale turned."""
BLOCKS = (
    ("double_blocks", "transformer_blocks", TWO_STREAMS),
    ("single_blocks", "single_transformer_blocks", ONE_STREAM),
)


def flux_paths(names: Mapping[str, object]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield original names with the paths of diffusers whose rows they hold in order; ``names``: all paths."""
    for original, path in OUTER.items():
        if path in names:
            yield original, (path,)
    for theirs, ours, layers in BLOCKS:
        pattern = re.compile(rf"{ours}\.(\d+)\.")
        for block in sorted({int(m[1]) for name in names if (m := pattern.match(name))}):
            for original, inner in layers.items():
                paths = tuple(f"{ours}.{block}.{path}" for path in inner)
                if all(path in names for path in paths):
                    yield f"{theirs}.{block}.{original}", paths
