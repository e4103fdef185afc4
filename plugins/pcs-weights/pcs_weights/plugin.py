"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "weights.bottleneck": "pcs_weights.bottleneck:BottleneckAdapter",
        "weights.full": "pcs_weights.full:FullFinetune",
        "weights.gradient_fusion": "pcs_weights.gradient_fusion:GradientFusion",
        "weights.key_locked": "pcs_weights.key_locked:KeyLocking",
        "weights.kv": "pcs_weights.kv:KVDelta",
        "weights.lora": "pcs_weights.lora:LoRA",
        "weights.merge": "pcs_weights.merge:ClosedFormMerge",
        "weights.peft": "pcs_weights.parameterised:Peft",
        "weights.svd": "pcs_weights.svd:SpectralShifts",
    }


@catalogue_hookimpl
def mergers() -> Mapping[str, str]:
    """Ways to merge personalizations."""
    return {
        "average": "pcs_weights.closed_form_merge:average",
        "closed-form": "pcs_weights.closed_form_merge:closed_form",
        "gradient-fusion": "pcs_weights.gradient_fusion_merge:gradient_fusion",
    }
