"""What a system's file says of itself, without the rest of it being understood. Import-cheap."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Any


@dataclass(frozen=True, slots=True)
class Head:
    """The ``[recipe]`` table of a system's file, and whether the file says how the system is built.

    A file without such a table, or that is no TOML, counts as built: loading it says what is wrong.
    """

    file: str
    table: Mapping[str, Any] = field(default_factory=dict)
    built: bool = True
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Words of the survey that no use implements -> why."""
    beyond: Mapping[str, str] = field(default_factory=dict)
    """What a use implements and the survey does not name -> why."""
    facts: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """The tables under ``[[source]]``, ``[[departure]]`` and ``[[parity]]``: see `pcs_core.assembly.schema`."""


def read_head(file: Traversable) -> Head:
    """Return the head of a system's file."""
    try:
        data = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return Head(file.name)
    table = data.get("recipe")
    if not isinstance(table, dict):
        return Head(file.name)
    return Head(
        file.name,
        table,
        built="use" in data or "extends" in table,
        left_out=_reasons(data.get("left_out")),
        beyond=_reasons(data.get("beyond")),
        facts={key: tuple(_tables(data.get(key))) for key in ("source", "departure", "parity")},
    )


def _reasons(entries: Any) -> dict[str, str]:
    return {str(table.get("technique")): str(table.get("reason")) for table in _tables(entries)}


def _tables(entries: Any) -> list[dict[str, Any]]:
    listed = entries if isinstance(entries, list) else []
    return [entry for entry in listed if isinstance(entry, dict)]
