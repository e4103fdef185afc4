"""Versions of everything that had a hand in a result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import pcs_core
from pcs_core.catalogue import Catalogue
from pcs_core.catalogue import catalogue as installed

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "pillow")


def versions(catalogue: Catalogue | None = None) -> dict[str, str]:
    """Return distribution -> version: Python, the core, its plugins, and the libraries below."""
    numbers = {"python": platform.python_version(), "pcs-core": pcs_core.__version__}
    for plugin in (catalogue or installed()).plugins():
        numbers[plugin.distribution] = plugin.version
    for library in LIBRARIES:
        try:
            numbers[library] = version(library)
        except PackageNotFoundError:
            continue
    return numbers
