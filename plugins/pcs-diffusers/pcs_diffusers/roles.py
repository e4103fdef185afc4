"""What the layers of diffusers' and transformers' networks are for, read from their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from pcs_core.data import Site

PROJECTIONS: Mapping[str, str] = {
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "out",
    "add_q_proj": "text_q",
    "add_k_proj": "text_k",
    "add_v_proj": "text_v",
    "to_add_out": "text_out",
}
"""Layer of an attention module -> what it makes; "text_q" and the like of a joint site's text."""
FEED_FORWARD: Mapping[str, str] = {
    "ff.net.0.proj": "in",
    "ff.net.2": "out",
    "ff_context.net.0.proj": "text_in",
    "ff_context.net.2": "text_out",
}
ONE_STREAM: Mapping[str, str] = {"proj_mlp": "in", "proj_out": "out"}
"""In blocks of one stream (FLUX) ``proj_out`` is that of attention and of the feed-forward part at once. A
U-Net's transformers have a ``proj_out`` too, which is none."""
CLIP: Mapping[str, str] = {
    "self_attn.q_proj": "attention.self.q",
    "self_attn.k_proj": "attention.self.k",
    "self_attn.v_proj": "attention.self.v",
    "self_attn.out_proj": "attention.self.out",
    "mlp.fc1": "ff.in",
    "mlp.fc2": "ff.out",
}
"""Layer of a CLIP text encoder -> its role. T5's have none: to train "the text" means CLIP."""

_BLOCKS = (
    (re.compile(r"down_blocks?(?:\.(\d+))?(?:\.|$)"), "down"),
    (re.compile(r"mid_block(?:\.|$)"), "mid"),
    (re.compile(r"up_blocks?(?:\.(\d+))?(?:\.|$)"), "up"),
    (re.compile(r"transformer_(?:blocks|layers)\.(\d+)(?:\.|$)"), "block"),
    (re.compile(r"single_transformer_blocks\.(\d+)(?:\.|$)"), "single"),
    (re.compile(r"(?:.*\.)?encoder\.layers\.(\d+)(?:\.|$)"), "block"),
)


def with_roles(sites: Iterable[Site], over_time: tuple[str, ...] = ()) -> tuple[Site, ...]:
    """Return the sites with their roles and blocks.

    ``over_time`` are the prefixes ("x.temp_attentions.0.") of the modules that act along a clip.
    """
    sites = tuple(sites)
    attention = {
        (site.part, site.name): site.kind
        for site in sites
        if site.kind in ("self", "cross", "joint", "temporal")
    }
    return tuple(
        replace(site, role=_role(site, attention, over_time), block=_block(site.name))
        for site in sites
    )


def _role(site: Site, attention: Mapping[tuple[str, str], str], over_time: tuple[str, ...]) -> str:
    if (kind := attention.get((site.part, site.name))) is not None:
        return _attention(kind)
    if site.part == "text":
        return next((role for end, role in CLIP.items() if site.name.endswith(f".{end}")), "")
    for end, what in PROJECTIONS.items():
        parent = attention.get((site.part, site.name.removesuffix(f".{end}")))
        if parent is not None and site.name.endswith(f".{end}"):
            return f"{_attention(parent)}.{what}"
    single = site.name.startswith("single_transformer_blocks.")
    for end, what in (ONE_STREAM if single else FEED_FORWARD).items():
        if site.part == "denoiser" and site.name.endswith(f".{end}"):
            return f"{'temporal.' if site.name.startswith(over_time) else ''}ff.{what}"
    return ""


def _attention(kind: str) -> str:
    return "temporal.attention" if kind == "temporal" else f"attention.{kind}"


def _block(name: str) -> str:
    for pattern, word in _BLOCKS:
        if (match := pattern.match(name)) is not None:
            number = match.group(1) if match.groups() else None
            return word if number is None else f"{word}.{number}"
    return ""
