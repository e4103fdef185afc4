"""PCS core: five hooks, edits, two loops, recipes and artifacts.

Public names are loaded on first use, so that ``import pcs_core`` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcs_core.assembly import load_preset, load_recipe, recipe_from_document, systems
    from pcs_core.backbone import Backbone
    from pcs_core.catalogue import installed
    from pcs_core.engine import (  # type: ignore[no-redef]
        fit,
        merge_personalizations,
        open_backbone,
        open_engine,
        pretrain,
        sample,
        text_features,
    )
    from pcs_core.engine.prepare import fit_image
    from pcs_core.errors import PcsError
    from pcs_core.hookspecs import catalogue_hookimpl, hookimpl
    from pcs_core.storage import (
        load,
        load_subject,
        read_verdict,
        save,
        sheet,
        write_png,
        write_verdict,
    )
    from pcs_core.storage.images import read_planes
    from pcs_core.technique import Technique

__version__ = "0.1.0"

_WHERE = {
    "Backbone": "pcs_core.backbone",
    "PcsError": "pcs_core.errors",
    "Technique": "pcs_core.technique",
    "catalogue_hookimpl": "pcs_core.hookspecs",
    "fit": "pcs_core.engine",
    "fit_image": "pcs_core.engine.prepare",
    "hookimpl": "pcs_core.hookspecs",
    "installed": "pcs_core.catalogue",
    "load": "pcs_core.storage",
    "load_preset": "pcs_core.assembly",
    "load_recipe": "pcs_core.assembly",
    "load_subject": "pcs_core.storage",
    "merge_personalizations": "pcs_core.engine",
    "open_backbone": "pcs_core.engine",
    "open_engine": "pcs_core.engine",
    "pretrain": "pcs_core.engine",
    "read_planes": "pcs_core.storage.images",
    "read_verdict": "pcs_core.storage",
    "recipe_from_document": "pcs_core.assembly",
    "sample": "pcs_core.engine",
    "save": "pcs_core.storage",
    "sheet": "pcs_core.storage",
    "systems": "pcs_core.assembly",
    "text_features": "pcs_core.engine",
    "write_png": "pcs_core.storage",
    "write_verdict": "pcs_core.storage",
}

__all__ = [
    "Backbone",
    "PcsError",
    "Technique",
    "__version__",
    "catalogue_hookimpl",
    "fit",
    "fit_image",
    "hookimpl",
    "installed",
    "load",
    "load_preset",
    "load_recipe",
    "load_subject",
    "merge_personalizations",
    "open_backbone",
    "open_engine",
    "pretrain",
    "read_planes",
    "read_verdict",
    "recipe_from_document",
    "sample",
    "save",
    "sheet",
    "systems",
    "text_features",
    "write_png",
    "write_verdict",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'pcs_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
