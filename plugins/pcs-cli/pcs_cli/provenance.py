"""Every number of a resolved recipe, and where it was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pcs_core.assembly.target import PROFILE
from pcs_core.catalogue.holdings import TUNING
from pcs_core.data.recipe import Recipe

Source = Literal["default", "recipe", "profile", "tuning", "set"]
"""The technique's or table's default, the recipe's file, the backbone's profile, a file of what differs on
the backbone or its family, ``--set``."""


@dataclass(frozen=True, slots=True)
class Number:
    """One value of a recipe: ``"<use>.<setting>"``, ``"<phase>.<field>"``, ``"<model>.<field>"``, ``"fit..."``
    or ``"sample..."``.

    ``place`` is ``"file:line"``, the name of the profile or the option as given; "" for a default.
    """

    name: str
    value: Any
    source: Source
    place: str


def numbers(recipe: Recipe) -> tuple[Number, ...]:
    """Return all values in the order of the recipe: uses, phases, models, fit, sample."""
    return tuple(
        Number(name, value, source_of(place), place)
        for name, value in _values(recipe)
        for place in [recipe.origins.get(name, "")]
    )


def source_of(place: str) -> Source:
    """Return what kind of source a place of :attr:`Recipe.origins` is."""
    if not place:
        return "default"
    if place.startswith("--set "):
        return "set"
    if place.startswith(f"{PROFILE} "):
        return "profile"
    return "tuning" if place.startswith(f"{TUNING}/") else "recipe"


def _values(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    for use in recipe.document["use"]:
        for key, value in use.items():
            if key not in ("technique", "name"):
                yield f"{use['name']}.{key}", value
    for phase in recipe.document["phase"]:
        for key, value in phase.items():
            if key not in ("name", "pretrain"):
                yield f"{phase['name']}.{key}", value
    for model in recipe.document.get("model", ()):
        for key, value in model.items():
            if key != "name":
                yield f"{model['name']}.{key}", value
    for table in ("fit", "sample"):
        for key, value in recipe.document[table].items():
            yield f"{table}.{key}", value
