"""Evidence that a system was run end to end: read here, written by ``scripts/results.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any


def read() -> Mapping[str, Mapping[str, Any]]:
    """Return system id -> {recipe_hash, backbone, measured...}; empty when nothing was run."""
    file = files("pcs_recipes") / "evidence.json"
    if not file.is_file():
        return {}
    entries: Mapping[str, Mapping[str, Any]] = json.loads(file.read_text("utf-8"))
    return entries
