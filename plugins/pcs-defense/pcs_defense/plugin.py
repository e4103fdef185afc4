"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "defense.cast": "pcs_defense.cast:ColourCast",
        "defense.perturbation": "pcs_defense.perturbation:Perturbation",
    }


@catalogue_hookimpl
def optimizers() -> Mapping[str, str]:
    """Optimizers by id."""
    return {"pgd": "pcs_defense.pgd:ProjectedSign"}


@catalogue_hookimpl
def commands() -> Mapping[str, str]:
    """``pcs protect``."""
    return {"protect": "pcs_defense.commands:app"}
