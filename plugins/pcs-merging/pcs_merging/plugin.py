"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def mergers() -> Mapping[str, str]:
    """Ways to merge personalizations."""
    return {"sum": "pcs_merging.adding:add_up"}


@catalogue_hookimpl
def services() -> Mapping[str, str]:
    """What the core and the command ask for by name."""
    return {
        "merge_personalizations": "pcs_merging.merging:merge_personalizations",
        "stack_personalizations": "pcs_merging.stacking:stack_personalizations",
        "usual_method": "pcs_merging.merging:usual_method",
    }
