"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "three_d.canvas": "pcs_three_d.canvas:Canvas",
        "three_d.score_distillation": "pcs_three_d.score_distillation:ScoreDistillation",
    }


@catalogue_hookimpl
def commands() -> Mapping[str, str]:
    """``pcs render``."""
    return {"render": "pcs_three_d.commands:app"}
