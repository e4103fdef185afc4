"""What lies on disk: artifacts, subject folders, pictures, checkpoints. Never pickle."""

from __future__ import annotations

from pcs_core.storage.artifact import load, save
from pcs_core.storage.layouts import load_layout
from pcs_core.storage.pictures import sheet, write_png
from pcs_core.storage.subjects import load_subject
from pcs_core.storage.verdicts import read_verdict, write_verdict

__all__ = [
    "load",
    "load_layout",
    "load_subject",
    "read_verdict",
    "save",
    "sheet",
    "write_png",
    "write_verdict",
]
