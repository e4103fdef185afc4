"""Recipes: read strictly, and resolved."""

from __future__ import annotations

from pcs_core.assembly.build import document_hash, recipe_from_document
from pcs_core.assembly.load import load_recipe, recipe_from_text
from pcs_core.assembly.presets import load_preset

__all__ = [
    "document_hash",
    "load_preset",
    "load_recipe",
    "recipe_from_document",
    "recipe_from_text",
]
