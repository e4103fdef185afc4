"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "acceleration.cross_attention_gate": (
            "pcs_acceleration.cross_attention_gate:CrossAttentionGate"
        ),
        "acceleration.feature_cache": "pcs_acceleration.feature_cache:FeatureCache",
        "acceleration.guidance_interval": "pcs_acceleration.guidance_interval:GuidanceInterval",
    }
