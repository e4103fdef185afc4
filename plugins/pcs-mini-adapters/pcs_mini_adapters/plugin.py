"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pcs_core.hookspecs import catalogue_hookimpl

WEIGHTS = Path(__file__).parent / "weights"
"""An artifact of no subject per system, each with its card."""
SYSTEMS = ("fastcomposer", "instantid", "ip-adapter")


@catalogue_hookimpl
def adapters() -> Mapping[str, str]:
    """The weights that are here, as ``<system>@mini``; in a checkout they may have to be trained first."""
    return {
        f"{system}@mini": f"pcs_mini_adapters.plugin:{system.replace('-', '_')}"
        for system in SYSTEMS
        if (WEIGHTS / system / "manifest.json").is_file()
    }


def ip_adapter() -> Path:
    """Folder of IP-Adapter's weights."""
    return WEIGHTS / "ip-adapter"


def fastcomposer() -> Path:
    """Folder of FastComposer's weights."""
    return WEIGHTS / "fastcomposer"


def instantid() -> Path:
    """Folder of InstantID's weights."""
    return WEIGHTS / "instantid"
