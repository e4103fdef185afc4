"""The catalogue: every id of every installed plugin, found without importing what it names."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any, Self

from pcs_core.catalogue.discovery import BrokenPlugin, find_plugins, one_line
from pcs_core.catalogue.heads import Head, read_head
from pcs_core.catalogue.holdings import NOUNS, Holdings, read_holdings
from pcs_core.catalogue.known import absent
from pcs_core.errors import ConflictError, PcsError, UnknownNameError, nearest

RECIPES = "recipes"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A working plugin: ``counts`` says how many ids it holds of each noun it has any of."""

    name: str
    distribution: str
    version: str
    module: str
    counts: Mapping[str, int]
    remarks: tuple[str, ...] = ()
    """What it printed or warned about while it was read."""


@dataclass(frozen=True, slots=True)
class _Entry:
    where: Any
    distribution: str


class Catalogue:
    """Ids by noun. Built once; nothing it names is imported before it is asked for.

    Attributes
    ----------
    broken
        Plugins that could not be used.
    conflicts
        One line per id that two plugins hold. Such an id raises when it is used, not before.
    """

    def __init__(self, plugins: Sequence[Holdings], broken: Sequence[BrokenPlugin] = ()) -> None:
        self.broken: list[BrokenPlugin] = list(broken)
        self.conflicts: list[str] = []
        self._plugins = tuple(_info(h) for h in plugins)
        self._entries: dict[str, dict[str, _Entry]] = {noun: {} for noun in (*NOUNS, RECIPES)}
        self._clashes: dict[tuple[str, str], str] = {}
        self._evidence = {key: file for h in reversed(plugins) for key, file in h.evidence.items()}
        self._tuning = {key: file for h in reversed(plugins) for key, file in h.tuning.items()}
        self._implements = {
            id: words for h in reversed(plugins) for id, words in h.implements.items()
        }
        self._formerly = {old: new for h in reversed(plugins) for old, new in h.formerly.items()}
        self._heads: dict[str, Head] | None = None
        for holdings in plugins:
            for noun, ids in {**holdings.nouns, RECIPES: holdings.recipes}.items():
                for id, where in ids.items():
                    self._add(noun, id, _Entry(where, holdings.plugin.distribution))

    @classmethod
    def load(cls, plugins: str | None = None) -> Self:
        """Discover the installed plugins.

        ``plugins`` is a comma-separated list of entry points or distributions; an empty string
        loads the core alone. None reads the environment variable ``PCS_PLUGINS``, and without it
        loads all. A broken plugin never raises: see :attr:`broken`.
        """
        only = os.environ.get("PCS_PLUGINS") if plugins is None else plugins
        discovered, lost = find_plugins(only)
        holdings, unusable = read_holdings(discovered)
        return cls(holdings, [*lost, *unusable])

    def plugins(self) -> list[PluginInfo]:
        """Return the working plugins in order of distribution."""
        return list(self._plugins)

    def ids(self, noun: str) -> list[str]:
        """Return the sorted ids of ``noun``."""
        return sorted(self._table(noun))

    def where(self, noun: str, id: str) -> str:
        """Return ``"module:attribute"`` of ``id``.

        Raises
        ------
        UnknownNameError
            Not held by an installed plugin; names the nearest id, or the distribution to install.
        ConflictError
            Held by two plugins; names both.
        """
        return str(self._entry(noun, id).where)

    def distribution(self, noun: str, id: str) -> str:
        """Return the name of the distribution that holds ``id``. Raises as :meth:`where` does."""
        return self._entry(noun, id).distribution

    def get(self, noun: str, id: str) -> Any:
        """Import and return what ``id`` names.

        Raises
        ------
        UnknownNameError, ConflictError
            As :meth:`where` does.
        PcsError
            What it names does not import; names the distribution and the reason.
        """
        entry = self._entry(noun, id)
        module, _, attribute = entry.where.partition(":")
        try:
            return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except Exception as error:
            title = f"{_singular(noun)} {id!r} of {entry.distribution} ({entry.where})"
            raise PcsError(f"{title} does not import: {one_line(error)}") from error

    def technique_today(self, id: str) -> str:
        """Return the id under which technique ``id`` of a stored recipe is known today."""
        return self._formerly.get(id, id)

    def implements(self, technique: str) -> tuple[str, ...]:
        """Return the catalogue's techniques that a technique's class says it implements, without import.

        Empty where it says so, and for a technique that a plugin maps itself in place of a package.
        """
        return self._implements.get(technique, ())

    def implementations(self) -> dict[str, list[str]]:
        """Return a technique of the catalogue -> the sorted ids of the installed ones that implement it."""
        by_word: dict[str, list[str]] = {}
        for id in self.ids("techniques"):
            for word in self.implements(id):
                by_word.setdefault(word, []).append(id)
        return by_word

    def system_files(self) -> dict[str, Traversable]:
        """Return system id -> its file, of all plugins, whether it says how to build it or only what it is.

        Of two with one id the first is here.
        """
        return {id: entry.where for id, entry in sorted(self._entries[RECIPES].items())}

    def heads(self) -> dict[str, Head]:
        """Return system id -> the ``[recipe]`` table of its file, read once per process."""
        if self._heads is None:
            self._heads = {id: read_head(file) for id, file in self.system_files().items()}
        return self._heads

    def recipe_files(self) -> dict[str, Traversable]:
        """Return system id -> file of those that can be built: with a use, or extending another."""
        heads = self.heads()
        return {id: file for id, file in self.system_files().items() if heads[id].built}

    def tuning_files(self, system: str) -> dict[str, Traversable]:
        """Return backbone id or family -> the file of what differs there for ``system``."""
        return {target: file for (target, id), file in sorted(self._tuning.items()) if id == system}

    def tuned_systems(self) -> list[tuple[str, str]]:
        """Return every (backbone id or family, system id) that a file of differences is for."""
        return sorted(self._tuning)

    def evidence_files(self) -> dict[tuple[str, str], Traversable]:
        """Return (backbone id, system id) -> evidence file, of all plugins; of two the first."""
        return dict(sorted(self._evidence.items()))

    def recipe_file(self, id: str) -> Traversable:
        """Return the file of system ``id``.

        Raises
        ------
        UnknownNameError
            No installed plugin knows it (names the nearest one), or only facts of it are known.
        ConflictError
            Two plugins have one; names both.
        """
        entries = self._entries[RECIPES]
        if (RECIPES, id) in self._clashes:
            raise ConflictError(self._clashes[RECIPES, id])
        if id not in entries:
            raise UnknownNameError(f"no system {id!r}{_hint(id, list(entries))}")
        if not self.heads()[id].built:
            raise UnknownNameError(
                f"system {id!r} is planned, without a recipe yet: see `pcs systems`"
            )
        file: Traversable = entries[id].where
        return file

    def _table(self, noun: str) -> dict[str, _Entry]:
        if noun not in NOUNS:
            raise UnknownNameError(f"no noun {noun!r} in the catalogue{nearest(noun, NOUNS)}")
        return self._entries[noun]

    def _entry(self, noun: str, id: str) -> _Entry:
        table = self._table(noun)
        if (noun, id) in self._clashes:
            raise ConflictError(self._clashes[noun, id])
        if id not in table:
            raise absent(self, _singular(noun), id) or UnknownNameError(
                f"no {_singular(noun)} {id!r}{_hint(id, list(table))}"
            )
        return table[id]

    def _add(self, noun: str, id: str, entry: _Entry) -> None:
        first = self._entries[noun].setdefault(id, entry)
        if first is entry or first == entry:
            return
        self._clashes[noun, id] = (
            f"{_singular(noun)} {id!r} comes from both {first.distribution} ({first.where}) and "
            f"{entry.distribution} ({entry.where}): uninstall one of them"
        )
        self.conflicts.append(self._clashes[noun, id])


@functools.cache
def catalogue() -> Catalogue:
    """Return this process's catalogue, loaded on the first call."""
    return Catalogue.load()


def service(name: str) -> Any:
    """Return what an installed plugin does under ``name``.

    Raises
    ------
    UnknownNameError
        No plugin holds it; names the distribution to install.
    """
    return catalogue().get("services", name)


def beside(name: str, module: str) -> Any:
    """Return what stands under ``name`` beside the core: a service, or ``module``'s own where it is a library.

    A library has no plugin module, so that no catalogue lists it.

    Raises
    ------
    NotInstalledError
        Neither is installed.
    """
    library = module.partition(".")[0]
    spec = importlib.util.find_spec(library)
    if spec is not None and importlib.util.find_spec(f"{library}.plugin") is None:
        return getattr(importlib.import_module(module), name)
    return service(name)


def _info(holdings: Holdings) -> PluginInfo:
    counts = {noun: len(ids) for noun, ids in holdings.nouns.items() if ids}
    if holdings.recipes:
        counts[RECIPES] = len(holdings.recipes)
    plugin = holdings.plugin
    return PluginInfo(
        plugin.name, plugin.distribution, plugin.version, plugin.module, counts, holdings.remarks
    )


def _hint(id: str, known: list[str]) -> str:
    if not known:
        return ": no installed plugin holds any, install the plugin that holds it"
    few = f" (known: {', '.join(sorted(known))})" if len(known) <= 8 else ""
    return nearest(id, known) or few


def _singular(noun: str) -> str:
    return "system" if noun == RECIPES else noun.removesuffix("s").replace("_", " ")
