"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> str:
    """The package that is searched for techniques."""
    return "pcs_masks"


@catalogue_hookimpl
def feature_models() -> Mapping[str, str]:
    """Segment Anything, which the user brings, and a tiny one of its class."""
    return {
        "sam": "pcs_masks.segmenter:segment_anything",
        "tiny.sam": "pcs_masks.segmenter:tiny",
    }


@catalogue_hookimpl
def claims() -> Mapping[str, str]:
    """A property that a recipe's check may list."""
    return {"masks_from_one": "pcs_masks.claims:masks_from_one"}
