"""One hash of everything that a resolved recipe and the code behind it follow from, computed without torch.

A listing of systems has to know whether the recipes and the code are those that were observed. Resolving twenty
recipes imports every technique and with it torch, some seconds. Here the same is read from texts: the tables as
they are written (the recipe, what it extends, what differs on any backbone), the backbones' profiles, the
defaults of the tables, and the source of the techniques. Where none of it changed, neither did the recipe.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from pcs_core.assembly.build import document_hash
from pcs_core.assembly.layers import all_uses
from pcs_core.assembly.load import written_tables
from pcs_core.assembly.schema import FitTable, HeadTable, PhaseTable, SampleTable
from pcs_core.assembly.tables import Layer, Table
from pcs_core.catalogue import Catalogue
from pcs_core.errors import PcsError
from pcs_evidence.code_hash import modules_hash, reached, source


@dataclass(frozen=True, slots=True)
class Written:
    """A system as its files say it: ``recipe`` is the [recipe] table, ``uses`` the techniques' ids in order.

    ``sources`` is the hash.
    """

    recipe: Mapping[str, Any]
    uses: tuple[str, ...]
    sources: str


def written(system: str, backbone: str, catalogue: Catalogue) -> Written | None:
    """Return a system as it is written for ``backbone``, or None where resolving it must say what is wrong.

    That is where its files are no tables, a technique is not installed, or a library that one imports is not.
    """
    try:
        layer = written_tables(system, catalogue)
        ids = {str(use.values.get("technique")) for use in all_uses(layer)}
        modules = {catalogue.where("techniques", id).partition(":")[0] for id in ids}
        if not all(_importable(name) for module in modules for name in reached(module)):
            return None
        facts = {
            "tables": _plain(layer),
            "profiles": _profiles(backbone, catalogue),
            "defaults": _defaults(),
            "code": modules_hash(modules),
        }
    except (PcsError, ImportError, SyntaxError):
        return None
    return Written(
        recipe={**_head(), **layer.recipe.values},
        uses=tuple(dict.fromkeys(str(use.values.get("technique")) for use in layer.uses)),
        sources=document_hash(facts),
    )


def _plain(layer: Layer) -> dict[str, Any]:
    """Return the values of a layer, without the lines that they stand on and without facts and checks."""

    def values(tables: list[Table]) -> list[Any]:
        return [table.values for table in tables]

    def by_name(tables: dict[str, Table]) -> dict[str, Any]:
        return {name: table.values for name, table in tables.items()}

    return {
        "backbones": layer.recipe.values.get("backbones"),
        "uses": values(layer.uses),
        "phases": values(layer.phases),
        "fit": layer.fit.values,
        "sample": layer.sample.values,
        "use_changes": by_name(layer.use_changes),
        "phase_changes": by_name(layer.phase_changes),
        "removed": list(layer.removed),
        "on": {target: _plain(above) for target, above in sorted(layer.backbones.items())},
    }


def _profiles(backbone: str, catalogue: Catalogue) -> dict[str, Any]:
    """Return the profile of ``backbone``; where it has none of its own, all, of which one is its family's."""
    known = catalogue.ids("profiles")
    ids = [backbone] if backbone in known else known
    return {id: asdict(catalogue.get("profiles", id)) for id in ids}


@cache
def _defaults() -> dict[str, Any]:
    tables = (HeadTable, PhaseTable, FitTable, SampleTable)
    return {table.__name__: table.model_json_schema() for table in tables}


@cache
def _head() -> dict[str, Any]:
    fields = HeadTable.model_fields.items()
    return {name: field.default for name, field in fields if not field.is_required()}


@cache
def _importable(module: str) -> bool:
    """Return whether the libraries that a module imports at its top are installed. Imports none."""
    return all(importlib.util.find_spec(name) for name in _libraries(ast.parse(source(module))))


def _libraries(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
