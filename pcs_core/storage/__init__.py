"""What lies on disk: artifacts and checkpoints. Never pickle."""

from __future__ import annotations

from pcs_core.storage.artifact import load, read_facts, save

__all__ = [
    "load",
    "read_facts",
    "save",
]
