"""What is installed: plugins, and the ids they hold by noun. This package imports no torch."""

from __future__ import annotations

from pcs_core.catalogue.catalogue import Catalogue, PluginInfo, beside, catalogue, service
from pcs_core.catalogue.discovery import BrokenPlugin, FoundPlugin
from pcs_core.catalogue.heads import Head
from pcs_core.catalogue.holdings import NOUNS

__all__ = [
    "NOUNS",
    "BrokenPlugin",
    "Catalogue",
    "FoundPlugin",
    "Head",
    "PluginInfo",
    "beside",
    "catalogue",
    "installed",
    "service",
]

installed = catalogue
"""The same function under the name that ``pcs_core`` gives it, where ``catalogue`` is this package."""
