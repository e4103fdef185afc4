"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "attention.localization_loss": "pcs_attention.localization_loss:LocalizationLoss",
        "attention.parallel_adapter": "pcs_attention.parallel_adapter:ParallelAdapter",
        "attention.regions": "pcs_attention.regions:RegionalAttention",
        "attention.shared": "pcs_attention.shared_attention:SharedAttention",
    }
