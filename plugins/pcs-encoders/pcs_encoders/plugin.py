"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> str:
    """The package that is searched for techniques."""
    return "pcs_encoders"


@catalogue_hookimpl
def feature_models() -> Mapping[str, str]:
    """A face recogniser that the user brings."""
    return {"face.id": "pcs_encoders.recogniser:face_id"}


@catalogue_hookimpl
def mergers() -> Mapping[str, str]:
    """Ways to put several artifacts into one."""
    return {"join": "pcs_encoders.join:join"}
