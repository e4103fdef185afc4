"""Recipes: read strictly, resolved, explained, and their status among the known systems."""

from __future__ import annotations

from pcs_core.assembly.build import document_hash, recipe_from_document
from pcs_core.assembly.evidence import Evidence, Standing, read_evidence
from pcs_core.assembly.explain import Explanation, HookCall, HookOrder, explain
from pcs_core.assembly.load import load_recipe, system_hash
from pcs_core.assembly.presets import load_preset
from pcs_core.assembly.status import SystemRow, system_status, systems

__all__ = [
    "Evidence",
    "Explanation",
    "HookCall",
    "HookOrder",
    "Standing",
    "SystemRow",
    "document_hash",
    "explain",
    "load_preset",
    "load_recipe",
    "read_evidence",
    "recipe_from_document",
    "system_hash",
    "system_status",
    "systems",
]
