"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pcs_core.hookspecs import catalogue_hookimpl


def archive() -> Path:
    """Where the archive lies; in a checkout it may have to be made first."""
    return Path(__file__).parent / "world.zip"


@catalogue_hookimpl
def datasets() -> Mapping[str, str]:
    """``mini.world``, the archive of drawings, solids, people and panoramas."""
    return {"mini.world": "pcs_mini_world.plugin:archive"}
