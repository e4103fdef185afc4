"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def recipes() -> Sequence[str]:
    """Packages that hold recipes."""
    return ["pcs_recipes"]


@catalogue_hookimpl
def datasets() -> Mapping[str, str]:
    """Facts about the catalogued techniques, and what systems need of the design."""
    return {
        "catalogue.techniques": "pcs_recipes.catalogue:techniques",
        "catalogue.needs": "pcs_recipes.catalogue:needs",
    }
