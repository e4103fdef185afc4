"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "fusion.token_output": "pcs_fusion.token_output:TokenOutput",
        "fusion.control_branch": "pcs_fusion.control_branch:ControlBranch",
    }
