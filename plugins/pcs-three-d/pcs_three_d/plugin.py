"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> str:
    """The package that is searched for techniques."""
    return "pcs_three_d"


@catalogue_hookimpl
def commands() -> Mapping[str, str]:
    """``pcs render``."""
    return {"render": "pcs_three_d.commands:app"}
