"""Public names that are loaded on first use, each listed once: in the stub beside the package.

``__init__.pyi`` says where every public name comes from, for type checkers and for this module alike:
``from pcs_core.storage import load as load``. The engine's names (``fit``, ``sample``) come from
``pcs_engine``, the package above the core in the same distribution. A name of another distribution's (``from
pcs_merging.merging import merge_personalizations as ...``) is a service of a plugin, which is asked of the
catalogue by that name, or of a library that stands beside the core. The core imports neither before the
name is used, and where nothing holds it, the message says what to install.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = ("pcs_core", "pcs_engine")
"""The packages of the distribution pcs-core: their names need nothing else installed."""


def public_names(file: str) -> dict[str, str]:
    """Return name -> module of the stub beside ``file``, a package's ``__init__.py``."""
    tree = ast.parse(Path(file).with_suffix(".pyi").read_text("utf-8"))
    return {
        alias.asname: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname
    }


def attach(
    package: str, file: str, eager: tuple[str, ...] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of ``package``, whose ``__init__.py`` is ``file``.

    ``eager`` are public names that the package defines itself. Services are left out of ``__all__``.
    """
    modules = public_names(file)
    names = sorted({*modules, *eager})
    # `from pcs_core import *` works with no plugin installed
    library = package.partition(".")[0]
    brought = HERE if library in HERE else (library,)
    always = [n for n in names if modules.get(n, package).partition(".")[0] in brought]

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if modules[name].partition(".")[0] not in brought:
            # the catalogue stands above this module: found when it is needed
            return importlib.import_module("pcs_core.catalogue").beside(name, modules[name])
        return getattr(importlib.import_module(modules[name]), name)

    return get, lambda: list(names), always


def services() -> Mapping[str, str]:
    """Return the names that stand beside the core: name -> the distribution of this project that has it."""
    import pcs_core

    return {
        name: module.partition(".")[0].replace("_", "-")
        for name, module in public_names(pcs_core.__file__).items()
        if module.partition(".")[0] not in HERE
    }
