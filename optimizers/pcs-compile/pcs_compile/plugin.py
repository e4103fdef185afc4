"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def engines() -> Mapping[str, str]:
    """``compile``: the backbone itself, its repeated blocks compiled once."""
    return {"compile": "pcs_compile.backbone:compiled"}
