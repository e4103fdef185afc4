"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "data.augment": "pcs_data.augment:Augment",
        "data.captions": "pcs_data.captions:Captions",
        "data.condition_dropout": "pcs_data.condition_dropout:ConditionDropout",
        "data.cut_mix": "pcs_data.cut_mix:CutMix",
        "data.union_sampling": "pcs_data.union_sampling:UnionSampling",
    }
