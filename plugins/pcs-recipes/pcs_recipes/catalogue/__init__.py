"""Facts about the techniques that the surveyed systems are made of, and what those need of the design.

Import-cheap. What is known of a system stands in its own file.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

Hook = Literal["extract", "fuse", "regularize", "mask", "sample"]

HOOKS: tuple[Hook, ...] = get_args(Hook)


@dataclass(frozen=True, slots=True, kw_only=True)
class TechniqueFacts:
    """One technique of the catalogue and where its code lies or will lie."""

    id: str
    distribution: str
    """The plugin that holds it or will hold it. What implements it says so: its class's ``catalogue``."""
    hooks: tuple[Hook, ...]
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedFacts:
    """Something that some systems need of the design, beyond the plain flow of a fit."""

    id: str
    name: str
    what: str
    code: str = ""
    """``"module:attribute"`` where it is built, empty while it is planned."""
    note: str = ""
    """What of it is missing."""


@cache
def techniques() -> tuple[TechniqueFacts, ...]:
    """Return the facts about every technique, grouped by the plugin that they were filed under."""
    entries: list[dict[str, Any]] = tomllib.loads(_read("techniques.toml"))["technique"]
    return tuple(TechniqueFacts(**_frozen(entry)) for entry in entries)


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")


def _frozen(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}


@cache
def needs() -> tuple[NeedFacts, ...]:
    """Return what systems need of the design, in the file's order."""
    entries: list[dict[str, Any]] = tomllib.loads(_read("needs.toml"))["need"]
    return tuple(NeedFacts(**entry) for entry in entries)
