"""The ``[check]`` table of a recipe: which claims define the system, and what must not pass for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pcs_core.errors import RecipeError, nearest

NEIGHBOURS = 3
"""Least number of neighbours of a check."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Neighbour(_Table):
    """A system that is not this one, or half of it: the check must fail there.

    ``set`` are settings as of ``--set``, ``remove`` names uses that are left out; ``why`` says what the
    neighbour is.
    """

    name: Annotated[str, Field(min_length=1)]
    why: Annotated[str, Field(min_length=1)]
    set: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class CheckTable(_Table):
    """``[check]``: ``set`` makes it small (counts and sizes), ``neutral`` switches the method off.

    ``concepts`` of the observed subject, each with a picture of its own. ``claim`` are tables of the form
    ``{claim = "<id>", ...}`` with the claim's bounds and settings.
    """

    set: tuple[str, ...] = ()
    neutral: tuple[str, ...] = ()
    concepts: Annotated[int, Field(ge=1, le=2)] = 1
    claim: tuple[dict[str, Any], ...] = ()
    neighbour: tuple[Neighbour, ...] = ()


def read_check(table: Mapping[str, Any], place: str, claims: tuple[str, ...]) -> CheckTable:
    """Return the check that a recipe's table describes; ``claims`` are the ids that there are.

    Raises
    ------
    RecipeError
        Unknown keys or claims (names the nearest), or two neighbours of one name.
    """
    try:
        check = CheckTable.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = nearest(str(first["loc"][-1]), CheckTable.model_fields) if first["loc"] else ""
        raise RecipeError(f"{place}: [check] {key}: {first['msg'].lower()}{hint}") from error
    for claim in check.claim:
        id = claim.get("claim")
        if id not in claims:
            raise RecipeError(f"{place}: [check]: no claim {id!r}{nearest(str(id), claims)}")
    names = [neighbour.name for neighbour in check.neighbour]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise RecipeError(f"{place}: [check]: two neighbours are called {min(repeated)!r}")
    return check
