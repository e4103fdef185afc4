"""Which variant of a system is being checked: the published one, or a neighbour of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pcs_core import load_recipe, recipe_from_document
from pcs_core.data import Recipe


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings laid over every other, and uses left out."""

    overrides: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


PUBLISHED = Variant()
_CURRENT: ContextVar[Variant | None] = ContextVar("variant", default=None)


@contextmanager
def under(variant: Variant) -> Iterator[None]:
    """Let :func:`load` give ``variant``, for the duration."""
    token = _CURRENT.set(variant)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def load(system: str, *, backbone: Any = None, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of ``system`` with ``overrides``, as the variant in force has it.

    Raises
    ------
    PcsError
        As `pcs_core.load_recipe`.
    """
    variant = _CURRENT.get() or PUBLISHED
    recipe = load_recipe(system, backbone=backbone, overrides=[*overrides, *variant.overrides])
    if not variant.remove:
        return recipe
    document = dict(recipe.document)
    document["use"] = [use for use in document["use"] if use["name"] not in variant.remove]
    return recipe_from_document(document)
