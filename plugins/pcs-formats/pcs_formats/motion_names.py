"""What AnimateDiff's own files call the layers of motion modules (arXiv:2307.04725), and diffusers' names.

The authors have a module ``temporal_transformer`` in each motion module, whose attentions and norms are lists:
``down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.to_q`` is
``down_blocks.0.motion_modules.0.transformer_blocks.0.attn2.to_q`` of diffusers.
"""

from __future__ import annotations

import re

MODULES = "motion_modules."
"""What every name of such a layer has in it."""
AUTHORS = ".temporal_transformer."
"""What the authors' names have in them alone."""
POSITIONS = (".pos_encoder.pe", ".pos_embed.pe")
"""Ends of the names of the positions of frames [1 t c], the authors' and diffusers'."""
_INNER = {
    ".attn1": ".attention_blocks.0",
    ".attn2": ".attention_blocks.1",
    ".norm1": ".norms.0",
    ".norm2": ".norms.1",
    ".norm3": ".ff_norm",
}
"""Layers of a transformer block, diffusers' name and the authors'."""
_BLOCK = re.compile(r"(.*\.transformer_blocks\.\d+)(\.(?:attn[12]|norm[123]))((?:\..*)?)")
_LISTED = re.compile(
    r"(.*\.transformer_blocks\.\d+)(\.(?:attention_blocks\.[01]|norms\.[01]|ff_norm))((?:\..*)?)"
)
_DIFFUSERS = {theirs: ours for ours, theirs in _INNER.items()}


def authors_name(name: str) -> str:
    """Return what the authors call the layer or tensor of a motion module that diffusers calls ``name``."""
    if match := _BLOCK.fullmatch(name):
        name = match[1] + _INNER[match[2]] + match[3]
    return re.sub(rf"({re.escape(MODULES)}\d+)\.", rf"\1{AUTHORS}", name, count=1)


def diffusers_name(name: str) -> str:
    """Return what diffusers calls the layer or tensor of a motion module, of a name of either kind."""
    name = name.replace(AUTHORS, ".", 1)
    if match := _LISTED.fullmatch(name):
        return match[1] + _DIFFUSERS[match[2]] + match[3]
    return name
