"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "encoders.image": "pcs_encoders.image:ImageFeatures",
        "encoders.face": "pcs_encoders.face:FaceFeatures",
    }


@catalogue_hookimpl
def mergers() -> Mapping[str, str]:
    """Ways to put several artifacts into one."""
    return {"join": "pcs_encoders.join:join"}
