"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "tokens.learnable": "pcs_tokens.learnable:LearnableToken",
        "tokens.layerwise": "pcs_tokens.layerwise:LayerwiseToken",
        "tokens.mapper": "pcs_tokens.mapper:MappedToken",
        "tokens.rare": "pcs_tokens.rare:RareToken",
    }


@catalogue_hookimpl
def mergers() -> Mapping[str, str]:
    """Ways to merge personalizations."""
    return {"mix-layers": "pcs_tokens.layerwise:mix_layers"}
