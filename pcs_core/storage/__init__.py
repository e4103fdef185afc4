"""What lies on disk: artifacts, subject folders, pictures, checkpoints. Never pickle."""

from __future__ import annotations

from pcs_core.storage.artifact import load, read_facts, save
from pcs_core.storage.pictures import sheet, write_png
from pcs_core.storage.subjects import load_subject

__all__ = [
    "load",
    "load_subject",
    "read_facts",
    "save",
    "sheet",
    "write_png",
]
