"""The backbone that a recipe is loaded for: its id, its family, and what it wants of any recipe."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.assembly.build import technique_class
from pcs_core.assembly.tables import Layer, Table
from pcs_core.catalogue import Catalogue
from pcs_core.errors import CapabilityError, PcsError, UnknownNameError

if TYPE_CHECKING:
    from pcs_core.data.profile import Profile
    from pcs_core.data.recipe import Recipe

Target = Any
"""A backbone's id, folder or hub id, an opened ``Backbone``, or its card; None for none."""

DDIM, SERVICE = "ddim", "check_scheduler"
"""The usual scheduler, which all families draw with, and the service that knows those of a family."""
PROFILE = "profile"
"""First word of the place of a number that a profile gives."""


def id_and_family(backbone: Target, catalogue: Catalogue) -> tuple[str, str]:
    """Return id and family of a backbone, "" for what is not known. Reads no weights."""
    if backbone is None:
        return "", ""
    card: Any = getattr(backbone, "card", backbone)
    if hasattr(card, "family"):
        return str(card.id), str(card.family)
    return str(backbone), family_of(str(backbone), catalogue)


def family_of(name: str, catalogue: Catalogue) -> str:
    """Return the family of an installed backbone, a folder, a file or a cached hub id, or ""."""
    location: Any = name
    if name in catalogue.ids("backbones"):
        location = _installed(name, catalogue)
        if not isinstance(location, str | Path):
            return str(location.card.family)
    for id in catalogue.ids("families"):
        family = catalogue.get("families", id)(location)
        if family is not None:
            return str(family)
    return ""


@cache
def _installed(name: str, catalogue: Catalogue) -> Any:
    # a folder, or a network that is made by calling it: once a process is enough to know its family
    return catalogue.get("backbones", name)()


def check_family(recipe: Recipe, backbone: Target, catalogue: Catalogue) -> None:
    """Refuse a backbone of a family on which ``recipe`` cannot run. Reads no weights.

    Raises
    ------
    CapabilityError
        The recipe says that it cannot, and why.
    """
    id, family = id_and_family(backbone, catalogue)
    if family in recipe.not_on:
        raise CapabilityError(
            f"{recipe.id!r} cannot run on backbone {id!r}, of the family {family!r}: {recipe.not_on[family]} "
            f"(it is for {', '.join(recipe.backbones)})"
        )


def check_scheduler(recipe: Recipe, backbone: Target, catalogue: Catalogue) -> None:
    """Refuse a scheduler that a family of backbones does not draw with. Reads no weights.

    Raises
    ------
    UnknownNameError, CapabilityError
        No such scheduler, or one that does not fit; names where the recipe says it, and the nearest.
    """
    name = recipe.sample.scheduler
    if name == DDIM or backbone is None or SERVICE not in catalogue.ids("services"):
        return
    _, family = id_and_family(backbone, catalogue)
    try:
        catalogue.get("services", SERVICE)(name, family)
    except (UnknownNameError, CapabilityError) as error:
        raise type(error)(f"{recipe.id}: sample.scheduler: {error}") from error


def profile_of(id: str, family: str, catalogue: Catalogue) -> Profile | None:
    """Return the profile of a backbone: its own, else its family's, else None."""
    profiles = catalogue.ids("profiles")
    for name in (id, family):
        if name in profiles:
            profile: Profile = catalogue.get("profiles", name)
            return profile
    return None


def with_profile(layer: Layer, profile: Profile | None, catalogue: Catalogue) -> Layer:
    """Return ``layer`` with a backbone's own numbers over those of the paper's backbone.

    A recipe's numbers are of the first backbone that it names: there nothing is replaced. A recipe
    that names none keeps every number that is written in it, and is given those that are not. A scale
    of 1, no guidance, is the method's and stays.
    """
    if profile is None:
        return layer
    families = layer.recipe.values.get("backbones") or []
    if families and families[0] == profile.id:
        return layer
    place = f"{PROFILE} {profile.id}"
    guided = layer.sample.values.get("scale") != 1
    sample = {"steps": profile.steps, "scale": profile.scale if guided else None}
    return Layer(
        recipe=layer.recipe,
        uses=[_filled(use, profile, place, bool(families), catalogue) for use in layer.uses],
        phases=layer.phases,
        models=layer.models,
        fit=layer.fit,
        sample=_over(layer.sample, sample, place, bool(families)),
        backbones=layer.backbones,
        check=layer.check,
        file=layer.file,
    )


def _filled(use: Table, profile: Profile, place: str, replace: bool, catalogue: Catalogue) -> Table:
    try:
        kind = technique_class(use, catalogue)
    except PcsError:
        return use  # told where the use is made
    words = {}
    for setting, field in kind.profiled.items():
        written = use.values.get(setting, getattr(kind, setting, ""))
        word = getattr(profile, field)
        # an empty word says that the method has none; a sentence that names no class is the method's own
        if written and ("{noun}" in written or "{noun}" not in word):
            words[setting] = word
    return _over(use, words, place, replace)


def _over(table: Table, values: dict[str, Any], place: str, replace: bool) -> Table:
    known = {
        key: value
        for key, value in values.items()
        if value not in (None, "") and (replace or key not in table.values)
    }
    return table.merged(Table(known, dict.fromkeys(known, place))) if known else table
