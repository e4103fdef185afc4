"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "guidance.branches": "pcs_guidance.branches:BranchGuidance",
        "guidance.layout": "pcs_guidance.layout:LayoutGuidance",
    }
