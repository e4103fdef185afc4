"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> str:
    """The package that is searched for techniques."""
    return "pcs_guidance"
