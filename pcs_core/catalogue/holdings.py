"""What one plugin holds: its answers to the catalogue hooks, checked and attributed to it."""

from __future__ import annotations

import importlib
import importlib.resources
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from importlib.resources.abc import Traversable
from typing import Any

from pcs_core.catalogue.discovery import (
    BrokenPlugin,
    FoundPlugin,
    is_users_interrupt,
    one_line,
    overheard,
)
from pcs_core.catalogue.probing import guarded
from pcs_core.catalogue.scan import ScannedTechnique, techniques_in
from pcs_core.hookspecs import catalogue_manager

NOUNS: tuple[str, ...] = (
    "techniques",
    "backbones",
    "profiles",
    "families",
    "loaders",
    "feature_models",
    "adapters",
    "optimizers",
    "exporters",
    "engines",
    "importers",
    "metrics",
    "datasets",
    "commands",
    "presets",
    "mergers",
    "watchers",
    "services",
    "checkers",
    "checks",
    "claims",
    "diagnoses",
)
"""The nouns whose ids map to ``"module:attribute"``. Recipes are files, kept apart."""

TUNING, EVIDENCE = "tuning", "evidence"
"""Folders of a package with recipes: ``tuning/<backbone id or family>/<system>.toml`` holds what differs
there, ``evidence/<backbone id>/<system>.json`` what was observed."""
NO_RECIPE_FOLDERS = frozenset({"catalogue", "__pycache__", TUNING, EVIDENCE})


@dataclass(frozen=True, slots=True)
class Holdings:
    """One plugin's ids: ``nouns[noun][id]`` is where it lies, ``recipes[id]`` a file."""

    plugin: FoundPlugin
    nouns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    recipes: Mapping[str, Traversable] = field(default_factory=dict)
    evidence: Mapping[tuple[str, str], Traversable] = field(default_factory=dict)
    """``evidence[backbone, system]``: the file that says what was observed."""
    tuning: Mapping[tuple[str, str], Traversable] = field(default_factory=dict)
    """``tuning[backbone id or family, system]``: what differs there from the system's recipe."""
    implements: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """``implements[technique id]``: the catalogue's techniques that its class says it implements. Known of
    techniques that are found by searching a package, not of those a plugin maps itself."""
    formerly: Mapping[str, str] = field(default_factory=dict)
    """``formerly[id of an earlier version]``: the technique's id today."""
    remarks: tuple[str, ...] = ()
    """What the plugin printed or warned about while it was read."""


def read_holdings(plugins: list[FoundPlugin]) -> tuple[list[Holdings], list[BrokenPlugin]]:
    """Ask every plugin what it holds. One that fails or answers nonsense is broken as a whole."""
    manager = catalogue_manager()
    holdings, broken = [], []
    for plugin in plugins:
        try:
            remarks: list[str] = []
            with overheard(remarks), guarded() if plugin.guarded else nullcontext():
                name = manager.register(plugin.plugin, f"{plugin.distribution}:{plugin.name}")
                manager.check_pending()
                contents = _read(manager, plugin, str(name))
            holdings.append(replace(contents, remarks=(*plugin.remarks, *remarks)))
        except BaseException as error:
            if is_users_interrupt(error):
                raise
            # a hook that the specs do not know stays pending and would be blamed on the next plugin
            if manager.is_registered(plugin.plugin):
                manager.unregister(plugin.plugin)
            broken.append(BrokenPlugin(plugin.name, plugin.distribution, one_line(error)))
    return holdings, broken


def _read(manager: Any, plugin: FoundPlugin, name: str) -> Holdings:
    nouns = {noun: _answer(manager, noun, name) for noun in NOUNS}
    scanned = _scanned(manager, name)
    nouns["techniques"] |= {id: technique.where for id, technique in scanned.items()}
    recipes: dict[str, Traversable] = {}
    for package in _packages(manager, name):
        for file in _recipe_files(importlib.resources.files(package)):
            stem = file.name.removesuffix(".toml")
            if stem in recipes:
                raise ValueError(f"two recipes are called {stem}.toml in {package}")
            recipes[stem] = file
    packages = _packages(manager, name)
    return Holdings(
        plugin,
        nouns,
        recipes,
        dict(_by_backbone(packages, EVIDENCE, ".json")),
        dict(_by_backbone(packages, TUNING, ".toml")),
        {id: technique.catalogue for id, technique in scanned.items()},
        {earlier: id for id, technique in scanned.items() for earlier in technique.formerly},
    )


def _answer(manager: Any, noun: str, name: str) -> dict[str, str]:
    places: dict[str, str] = {}
    for answer in _call(manager, noun, name):
        if noun == "techniques" and isinstance(answer, str):
            continue  # a package to search: see _scanned
        if not isinstance(answer, Mapping):
            kind = type(answer).__name__
            raise TypeError(f"{noun}() returns {kind}, not ids mapped to 'module:attribute'")
        for id, where in answer.items():
            if not isinstance(id, str) or not _is_where(where):
                raise TypeError(f"{noun}() maps {id!r} to {where!r}, not to 'module:attribute'")
            places[id] = where
    return places


def _scanned(manager: Any, name: str) -> dict[str, ScannedTechnique]:
    techniques: dict[str, ScannedTechnique] = {}
    for answer in _call(manager, "techniques", name):
        if isinstance(answer, str):
            techniques |= techniques_in(answer)
    return techniques


def _is_where(where: object) -> bool:
    return isinstance(where, str) and all(where.partition(":"))


def _packages(manager: Any, name: str) -> list[str]:
    packages: list[str] = []
    for answer in _call(manager, "recipes", name):
        if isinstance(answer, str) or not all(isinstance(part, str) for part in answer):
            raise TypeError(f"recipes() returns {answer!r}, not a list of package names")
        packages += answer
    return packages


def _call(manager: Any, hook: str, name: str) -> list[Any]:
    # each plugin is asked alone, so that what it answers (or breaks) is attributed to it
    callers = getattr(manager.hook, hook).get_hookimpls()
    return [impl.function() for impl in callers if impl.plugin_name == name]


def _recipe_files(folder: Traversable) -> Iterator[Traversable]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            if entry.name not in NO_RECIPE_FOLDERS and not entry.name.startswith("."):
                yield from _recipe_files(entry)
        elif entry.name.endswith(".toml") and not entry.name.startswith("."):
            yield entry


def _by_backbone(
    packages: list[str], folder: str, suffix: str
) -> Iterator[tuple[tuple[str, str], Traversable]]:
    """Yield ``(backbone, system)`` and the file of each ``<folder>/<backbone>/<system><suffix>``."""
    for package in packages:
        root = importlib.resources.files(package) / folder
        if not root.is_dir():
            continue
        for backbone in sorted(root.iterdir(), key=lambda entry: entry.name):
            if not backbone.is_dir():
                continue
            for file in sorted(backbone.iterdir(), key=lambda entry: entry.name):
                if file.name.endswith(suffix):
                    yield (backbone.name, file.name.removesuffix(suffix)), file
