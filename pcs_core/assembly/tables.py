"""A recipe file as tables whose keys remember where they were written."""

from __future__ import annotations

import datetime
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pcs_core.assembly.lines import Path, line_numbers
from pcs_core.errors import RecipeError, nearest
from pcs_core.small_files import check_bounds

TOP = (
    "recipe",
    "use",
    "pretrain",
    "phase",
    "model",
    "fit",
    "sample",
    "backbone",
    "check",
    "left_out",
    "beyond",
    "source",
    "departure",
    "parity",
)
FACT_LISTS = ("left_out", "beyond", "source", "departure", "parity")
"""Lists of facts about how a system is built: checked, kept out of the resolved recipe and its hash."""
BACKBONE = ("use", "pretrain", "phase", "fit", "sample", "remove")


@dataclass(slots=True)
class Table:
    """One table; ``place`` is the ``"file:line"`` of its header, ``places`` those of its keys."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    place: str = ""

    def where(self, key: str) -> str:
        """Return the place of ``key``, or the table's."""
        return self.places.get(key, self.place)

    def merged(self, other: Table) -> Table:
        """Return this table with the keys of ``other`` over its own."""
        return Table(
            {**self.values, **other.values},
            {**self.places, **other.places},
            self.place or other.place,
        )


@dataclass(slots=True)
class Layer:
    """One file, or one of its ``[backbone.<id>]`` tables.

    ``uses``, ``phases`` and ``models`` are lists. ``use_changes`` and ``phase_changes`` change what must be
    there already, by name (the form ``[backbone.<id>.use.<name>]``); ``removed`` names uses that a
    backbone does without.
    """

    recipe: Table = field(default_factory=Table)
    uses: list[Table] = field(default_factory=list)
    phases: list[Table] = field(default_factory=list)
    models: list[Table] = field(default_factory=list)
    fit: Table = field(default_factory=Table)
    sample: Table = field(default_factory=Table)
    use_changes: dict[str, Table] = field(default_factory=dict)
    phase_changes: dict[str, Table] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    backbones: dict[str, Layer] = field(default_factory=dict)
    check: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, list[Table]] = field(default_factory=dict)
    file: str = ""


def read_layer(text: str, file: str) -> Layer:
    """Read the tables of a recipe's TOML ``text``; ``file`` names it in messages.

    Raises
    ------
    RecipeError
        Not TOML, an unknown table, a table of the wrong shape, a value that is no plain data.
    """
    data = _parse(text, file)
    return _Reader(file, line_numbers(text)).layer(data)


def read_overlay(text: str, file: str, target: str) -> Layer:
    """Read what differs from a recipe on ``target``, the form of a ``[backbone.<id>]`` table.

    Raises
    ------
    RecipeError
        As `read_layer`.
    """
    data = _parse(text, file)
    return _Reader(file, line_numbers(text)).overlay(data, (), target)


def layer_of(document: Mapping[str, Any], file: str, text: str = "") -> Layer:
    """Return the tables of parsed data, whose lines are those of ``text``. Raises as `read_layer`."""
    return _Reader(file, line_numbers(text) if text else {}).layer(dict(document))


class _Reader:
    def __init__(self, file: str, lines: Mapping[Path, int]) -> None:
        self.file = file
        self.lines = lines

    def layer(self, data: dict[str, Any]) -> Layer:
        for key in data:
            if key not in TOP:
                self.refuse((key,), f"unknown table or key {key!r}{nearest(key, TOP)}")
        for key in ("use", "pretrain", "phase", "model", *FACT_LISTS):
            if isinstance(data.get(key), dict):
                self.refuse((key,), f"{key} must be a list of tables: write [[{key}]]")
        layer = self.body(data, ())
        layer.recipe = self.table(data.get("recipe", {}), ("recipe",))
        if not layer.recipe.values:
            self.refuse((), "no [recipe] table: it needs at least an id")
        for id, tables in self.names(data.get("backbone", {}), ("backbone",)).items():
            layer.backbones[id] = self.overlay(tables, ("backbone", id), id)
        layer.models = self.items(data.get("model", []), ("model",))[0]
        layer.check = self.table(data.get("check", {}), ("check",)).values
        layer.facts = {key: self.items(data.get(key, []), (key,))[0] for key in FACT_LISTS}
        return layer

    def overlay(self, data: dict[str, Any], path: Path, target: str) -> Layer:
        """Return what differs from a recipe on a backbone or family, ``target`` in messages."""
        title = f"[backbone.{target}]" if path else target
        for key in data:
            if key not in BACKBONE:
                hint = nearest(key, BACKBONE) or f" (known: {', '.join(BACKBONE)})"
                self.refuse((*path, key), f"{title}: unknown table {key!r}{hint}")
        layer = self.body(data, path)
        names = data.get("remove", [])
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            self.refuse((*path, "remove"), f"{title}: remove must be a list of names")
        layer.removed = tuple(names)
        return layer

    def body(self, data: dict[str, Any], path: Path) -> Layer:
        layer = Layer(file=self.file)
        layer.fit = self.table(data.get("fit", {}), (*path, "fit"))
        layer.sample = self.table(data.get("sample", {}), (*path, "sample"))
        layer.uses, layer.use_changes = self.items(data.get("use", []), (*path, "use"))
        # a [[pretrain]] is a phase that only `pcs pretrain` runs; they come first
        layer.phases, layer.phase_changes = self.items(
            data.get("pretrain", []), (*path, "pretrain")
        )
        for table in layer.phases:
            table.values["pretrain"] = True
        phases, changes = self.items(data.get("phase", []), (*path, "phase"))
        layer.phases += phases
        layer.phase_changes |= changes
        return layer

    def items(self, data: Any, path: Path) -> tuple[list[Table], dict[str, Table]]:
        if isinstance(data, dict):
            named = self.names(data, path)
            return [], {name: self.table(value, (*path, name)) for name, value in named.items()}
        if not isinstance(data, list):
            self.refuse(path, f"{path[-1]} must be a list of tables: write [[{path[-1]}]]")
        return [self.table(value, (*path, index)) for index, value in enumerate(data)], {}

    def names(self, data: Any, path: Path) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.refuse(path, f"{_dotted(path)} must be a table: write [{_dotted(path)}.<name>]")
        for name, value in data.items():
            if not isinstance(value, dict):
                self.refuse(
                    (*path, name), f"{_dotted((*path, name))} must be a table, got {value!r}"
                )
        return data

    def table(self, data: Any, path: Path) -> Table:
        if not isinstance(data, dict):
            self.refuse(path, f"{_dotted(path)} must be a table, got {data!r}")
        for key, value in data.items():
            if (odd := not_plain(value)) is not None:
                self.refuse((*path, key), f"{key}: {odd} is not allowed in a recipe")
        places = {key: self.place((*path, key)) for key in data}
        return Table(dict(data), places, self.place(path))

    def place(self, path: Path) -> str:
        # a key inside an inline table has no line of its own: its table's, then the file's
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.file}:{self.lines[path]}" if path else self.file

    def refuse(self, path: Path, message: str) -> NoReturn:
        inside = [line for p, line in self.lines.items() if path and p[: len(path)] == path]
        place = f"{self.file}:{min(inside)}" if inside else self.place(path)
        raise RecipeError(f"{place}: {message}")


def not_plain(value: Any) -> str | None:
    """Return how to call what in ``value`` is no plain data (a date, nan), or None."""
    if isinstance(value, datetime.date | datetime.time):
        return "a date"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}"
    if isinstance(value, dict):
        return next((odd for v in value.values() if (odd := not_plain(v))), None)
    if isinstance(value, list):
        return next((odd for v in value if (odd := not_plain(v))), None)
    return None


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path if isinstance(part, str))


def _parse(text: str, file: str) -> dict[str, Any]:
    check_bounds(text, file, error=RecipeError)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(_syntax(error, text, file)) from error


def _syntax(error: tomllib.TOMLDecodeError, text: str, file: str) -> str:
    # "... (at line 3, column 5)" or "... (at end of document)"
    message, _, at = str(error).rpartition(" (at ")
    number = at.removeprefix("line ").split(",")[0]
    line = number if number.isdigit() else str(max(text.count("\n"), 1))
    return f"{file}:{line}: not valid TOML: {message or error}"
