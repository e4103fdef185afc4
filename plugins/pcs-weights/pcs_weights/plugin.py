"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> str:
    """The package that is searched for techniques."""
    return "pcs_weights"


@catalogue_hookimpl
def mergers() -> Mapping[str, str]:
    """Ways to merge personalizations."""
    return {
        "average": "pcs_weights.closed_form_merge:average",
        "closed-form": "pcs_weights.closed_form_merge:closed_form",
        "gradient-fusion": "pcs_weights.gradient_fusion_merge:gradient_fusion",
    }
