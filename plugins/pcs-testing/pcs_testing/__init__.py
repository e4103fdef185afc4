"""What plugin authors import in their tests: small subjects and recipes, and the contract."""

from __future__ import annotations

from pcs_testing.brief import brief_settings, tiny_backbone
from pcs_testing.case import Case
from pcs_testing.contract import CHECKS, check_technique
from pcs_testing.fixtures import (
    Snapshot,
    build_fusion,
    evaluate,
    evaluate_attached,
    make_picture,
    make_recipe,
    make_subject,
    perturb,
    pixels,
)
from pcs_testing.inspect import (
    attention_outputs,
    attention_states,
    conditioning,
    control_residuals,
)
from pcs_testing.pairs import check_pair
from pcs_testing.recipe_texts import recipe_text

__all__ = [
    "CHECKS",
    "Case",
    "Snapshot",
    "attention_outputs",
    "attention_states",
    "brief_settings",
    "build_fusion",
    "check_pair",
    "check_technique",
    "conditioning",
    "control_residuals",
    "evaluate",
    "evaluate_attached",
    "make_picture",
    "make_recipe",
    "make_subject",
    "perturb",
    "pixels",
    "recipe_text",
    "tiny_backbone",
]
