"""What plugin authors import in their tests: small subjects and recipes, and the contract."""

from __future__ import annotations

from pcs_core.testing.contract import CHECKS, Case, check_technique
from pcs_core.testing.fixtures import (
    Snapshot,
    build_fusion,
    evaluate,
    evaluate_attached,
    make_picture,
    make_recipe,
    make_subject,
    perturb,
)

__all__ = [
    "CHECKS",
    "Case",
    "Snapshot",
    "build_fusion",
    "check_technique",
    "evaluate",
    "evaluate_attached",
    "make_picture",
    "make_recipe",
    "make_subject",
    "perturb",
]
