"""Facts about the surveyed systems and the techniques that they are made of. Import-cheap.

A fact that is not known for sure is left empty. Systems are JSON because they are many: the
standard library reads it some thirty times faster than TOML.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

Framework = Literal["TTF", "PTA", "hybrid"]
"""Test-time fine-tuning, a pre-trained adapter, or a pre-trained one that is tuned shortly."""

Scope = Literal[
    "object",
    "style",
    "face",
    "multiple-subjects",
    "high-level-semantic",
    "extra-conditions",
    "video",
    "3d",
    "attack-and-defense",
    "others",
]
"""What is personalised, in the survey's order. "high-level-semantic" is relations, actions and the
like, "extra-conditions" layouts, garments, views and other spatial inputs, "others" what has no
group of its own, such as vector graphics and panoramas."""

Hook = Literal["extract", "fuse", "regularize", "mask", "sample"]

FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)
SCOPES: tuple[Scope, ...] = get_args(Scope)
HOOKS: tuple[Hook, ...] = get_args(Hook)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemFacts:
    """What is known of one published system, whether or not there is a recipe for it."""

    id: str
    name: str
    ref: str
    """The survey's number of the paper."""
    year: int
    """The year in which the system appeared, which may precede the cited venue's."""
    scope: tuple[Scope, ...]
    framework: Framework
    """As the survey has it; ``note`` says where the paper differs."""
    backbones: tuple[str, ...]
    """The base models as the survey names them: "SD" without a version, "VDM" for any video
    diffusion model. Empty if none is known."""
    techniques: tuple[str, ...]
    """Catalogue ids of techniques, not the code ids that a recipe writes."""
    title: str
    """The title of the paper, as the survey cites it."""
    summary: str
    """The mechanism in one sentence."""
    paper: str = ""
    """``"arXiv:<id>"`` where the survey gives one."""
    note: str = ""
    """What a reader should know about the entry, most often how the survey and the paper differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TechniqueFacts:
    """One technique of the catalogue and where its code lies or will lie."""

    id: str
    distribution: str
    """The plugin that holds it, or its first code where there are several."""
    hooks: tuple[Hook, ...]
    codes: tuple[str, ...]
    """The ids that recipes write. Empty where a recipe's phases or an optimizer do the work."""
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamFacts:
    """Something of the design that some systems cannot do without."""

    id: str
    name: str
    what: str
    code: str = ""
    """``"module:attribute"`` where it is built, empty while it is planned."""
    note: str = ""
    """What of it is missing."""
    systems: tuple[str, ...] = ()


@cache
def systems() -> tuple[SystemFacts, ...]:
    """Return the facts about every system, grouped by scope as in the survey."""
    entries: list[dict[str, Any]] = json.loads(_read("systems.json"))
    return tuple(SystemFacts(**_frozen(entry)) for entry in entries)


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
def seams() -> tuple[SeamFacts, ...]:
    """Return what systems need of the design, in the file's order."""
    return tuple(SeamFacts(**{**row, "systems": tuple(row["systems"])}) for row in _seams()["seam"])


def impossible() -> dict[str, str]:
    """Return why a system cannot be expressed at all, by system id."""
    return {row["system"]: row["reason"] for row in _seams()["impossible"]}


@cache
def _seams() -> dict[str, Any]:
    return tomllib.loads((files(__name__) / "seams.toml").read_text("utf-8"))
