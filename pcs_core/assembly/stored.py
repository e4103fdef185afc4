"""Recipes that earlier versions stored, read with the names of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcs_core.catalogue import Catalogue

ROLES: Mapping[str, str] = {"canvas": "rendered"}
"""Roles of rows in a phase's ``batch`` that had another name."""


def with_names_of_today(document: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Return a stored recipe's document with today's ids of techniques and names of roles.

    A use keeps its own name, by which the stored tensors and the globs of phases call it. What is no
    table of the expected form is left as it is: whoever reads the tables says what is wrong with it.
    """
    changed = dict(document)
    for key, rename in (("use", _use), ("phase", _phase)):
        if isinstance(tables := document.get(key), list):
            changed[key] = [rename(t, catalogue) if isinstance(t, dict) else t for t in tables]
    return changed


def _use(table: dict[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    id = table.get("technique")
    if not isinstance(id, str) or (today := catalogue.technique_today(id)) == id:
        return table
    return {"name": id, **table, "technique": today}


def _phase(table: dict[str, Any], _: Catalogue) -> dict[str, Any]:
    batch = table.get("batch")
    if not isinstance(batch, dict):
        return table
    return {**table, "batch": {ROLES.get(role, role): count for role, count in batch.items()}}
