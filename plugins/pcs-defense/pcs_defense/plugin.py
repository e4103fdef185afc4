"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> str:
    """The package that is searched for techniques."""
    return "pcs_defense"


@catalogue_hookimpl
def optimizers() -> Mapping[str, str]:
    """Optimizers by id."""
    return {"pgd": "pcs_defense.pgd:ProjectedSign"}


@catalogue_hookimpl
def commands() -> Mapping[str, str]:
    """``pcs protect``."""
    return {"protect": "pcs_defense.commands:app"}
