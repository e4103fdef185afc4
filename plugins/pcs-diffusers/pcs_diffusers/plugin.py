"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def loaders() -> Mapping[str, str]:
    """Folder layouts this plugin opens."""
    return {"stable-diffusion": "pcs_diffusers.stable_diffusion:load"}


@catalogue_hookimpl
def backbones() -> Mapping[str, str]:
    """Config-built random networks on the real classes, for tests and defining checks."""
    return {
        "tiny": "pcs_diffusers.tiny:tiny",
        "tiny-v": "pcs_diffusers.tiny:tiny_v",
    }
