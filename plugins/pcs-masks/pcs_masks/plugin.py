"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "masks.given": "pcs_masks.given:GivenMasks",
        "masks.masked_loss": "pcs_masks.masked_loss:MaskedLoss",
    }
