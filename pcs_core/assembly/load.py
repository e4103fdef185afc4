"""Loading a recipe: from a system id or a file, through ``extends``, a backbone and ``--set``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path

from pcs_core.arguments import checks_arguments
from pcs_core.assembly.build import build, check_keys, technique_class
from pcs_core.assembly.layers import (
    all_phases,
    all_uses,
    extend,
    for_backbone,
    merge_overlays,
    use_name,
)
from pcs_core.assembly.overrides import override
from pcs_core.assembly.schema import (
    FACT_TABLES,
    USE_KEYS,
    FitTable,
    PhaseTable,
    RecipeTable,
    SampleTable,
    read_table,
)
from pcs_core.assembly.tables import Layer, layer_of, read_layer, read_overlay
from pcs_core.assembly.target import (
    Target,
    check_family,
    check_scheduler,
    id_and_family,
    profile_of,
    with_profile,
)
from pcs_core.catalogue import Catalogue
from pcs_core.catalogue import catalogue as installed
from pcs_core.catalogue.holdings import TUNING
from pcs_core.data.recipe import Recipe
from pcs_core.errors import CapabilityError, InputError, RecipeError, UnknownNameError, nearest
from pcs_core.small_files import read_bytes


@dataclass(frozen=True, slots=True)
class _Source:
    """A recipe text, the name of its file, and the folder its ``extends`` may point into."""

    text: str
    file: str
    folder: Path | None
    system: str = ""


@checks_arguments
def load_recipe(
    source: str | Path | Recipe,
    *,
    backbone: Target = None,
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> Recipe:
    """Return a resolved recipe.

    ``source`` is a system id, a ``.toml`` file, or a resolved recipe (``overrides`` apply to it,
    ``backbone`` no longer does). ``backbone`` is an opened backbone or its card, or what would be
    opened: an installed id, a folder, a hub id. Each of these is laid over what is before it: the
    recipe, the backbone's profile, what differs in its family, what differs on its id, ``overrides``
    (``"KEY=VALUE"``). What differs stands in ``tuning/<family or id>/<system>.toml`` beside the recipes, or
    in a ``[backbone.<family or id>]`` table of the file.

    Raises
    ------
    UnknownNameError
        No such system, key of an override or scheduler of the backbone; names the nearest.
    InputError
        The file cannot be read, or an override is no ``KEY=VALUE``.
    CapabilityError
        The recipe cannot run on this family of backbones, its scheduler does not fit it, or a technique that
        is defined on pictures was asked for clips. No weights are read for any of it.
    RecipeError
        Anything wrong inside, at ``file:line``.
    """
    catalogue = catalogue or installed()
    if isinstance(source, Recipe):
        check_family(source, backbone, catalogue)
        if not overrides:
            check_scheduler(source, backbone, catalogue)
            return source
        layer = layer_of(source.document, source.path or source.id)
        changed = build(
            override(layer, overrides, catalogue), catalogue, source=source.source, path=source.path
        )
        check_scheduler(changed, backbone, catalogue)
        return replace(changed, not_on=source.not_on)
    return _loaded(_find(source, catalogue), backbone, overrides, catalogue)


def recipe_from_text(text: str, file: str, *, backbone: Target = None) -> Recipe:
    """Return the recipe that stands in ``text``, as :func:`load_recipe` does; ``file`` is what messages name.

    Raises as :func:`load_recipe`.
    """
    return _loaded(_Source(text, file, None), backbone, (), installed())


def _loaded(
    recipe_source: _Source, backbone: Target, overrides: Sequence[str], catalogue: Catalogue
) -> Recipe:
    layer = _resolve(recipe_source, catalogue)
    id, family = id_and_family(backbone, catalogue)
    profile = profile_of(id, family, catalogue)
    profiled = with_profile(layer, profile, catalogue)
    applied = for_backbone(profiled, *(name for name in (family, id) if name))
    _check_all_keys(layer, catalogue)
    layer = override(applied, overrides, catalogue)
    recipe = build(layer, catalogue, source=recipe_source.text, path=recipe_source.file)
    if profile is not None and profile.clips:
        refuse_clips(recipe, id)
    if recipe_source.system and recipe.id != recipe_source.system:
        place = layer.recipe.where("id")
        raise RecipeError(
            f"{place}: id {recipe.id!r} is not the name of its file, {recipe_source.system!r}"
        )
    check_family(recipe, backbone, catalogue)
    check_scheduler(recipe, backbone, catalogue)
    return recipe


def written_tables(system: str, catalogue: Catalogue) -> Layer:
    """Return what is written of ``system``: its file, what it extends, and what differs on each backbone.

    Imports none of its techniques. Raises as :func:`load_recipe` does for files that cannot be read as tables.
    """
    return _resolve(_find(system, catalogue), catalogue)


def refuse_clips(recipe: Recipe, backbone: str) -> None:
    """Refuse a recipe that is defined on pictures, for a backbone that draws clips.

    Raises
    ------
    CapabilityError
        Names the system, the use and the backbone.
    """
    for use in recipe.uses:
        if not use.technique.takes_clips:
            raise CapabilityError(
                f"{recipe.id!r} takes pictures, and backbone {backbone!r} draws clips: its use {use.name!r} "
                f"({use.technique.id}) is defined on pictures. Choose a backbone of pictures"
            )


def _resolve(source: _Source, catalogue: Catalogue) -> Layer:
    layer = _tuned(read_layer(source.text, source.file), catalogue)
    parent = _parent(layer, source, catalogue)
    if parent is None:
        return layer
    below = _tuned(read_layer(parent.text, parent.file), catalogue)
    if "extends" in below.recipe.values:
        raise RecipeError(
            f"{layer.recipe.where('extends')}: {parent.file} extends another recipe itself: "
            "one level only, extend that one instead"
        )
    return extend(below, layer)


def _tuned(layer: Layer, catalogue: Catalogue) -> Layer:
    """Return ``layer`` with the files of what differs on a backbone under its own tables of that."""
    id = layer.recipe.values.get("id")
    if not isinstance(id, str):
        return layer  # told where the recipe is read
    for target, file in catalogue.tuning_files(id).items():
        name = f"{TUNING}/{target}/{file.name}"
        overlay = read_overlay(_read(file, name), name, target)
        layer.backbones[target] = merge_overlays(overlay, layer.backbones.get(target, Layer()))
    return layer


def _parent(layer: Layer, source: _Source, catalogue: Catalogue) -> _Source | None:
    if "extends" not in layer.recipe.values:
        return None
    name = layer.recipe.values["extends"]
    place = layer.recipe.where("extends")
    if not isinstance(name, str) or not name:
        raise RecipeError(f"{place}: extends must be a system id or a .toml file, got {name!r}")
    try:
        if name.endswith(".toml") and source.folder is not None:
            return _find(source.folder / name, catalogue)
        return _find(name, catalogue)
    except (InputError, UnknownNameError) as error:
        raise RecipeError(f"{place}: extends: {error}") from error


def _find(source: str | Path, catalogue: Catalogue) -> _Source:
    separators = tuple(s for s in ("/", os.sep, os.altsep) if s)
    written = str(source)
    as_file = isinstance(source, Path) or written.endswith(".toml")
    if as_file or any(separator in written for separator in separators):
        path = Path(source)
        return _Source(_read(path, str(path)), str(path), path.parent)
    file = catalogue.recipe_file(written)
    folder = file.parent if isinstance(file, Path) else None
    return _Source(_read(file, file.name), file.name, folder, written)


def _read(file: Path | Traversable, name: str) -> str:
    if isinstance(file, Path) and not file.is_file():
        near = nearest(file.name, (p.name for p in file.parent.glob("*.toml")))
        what = "is a folder, not a recipe" if file.is_dir() else f"no recipe file here{near}"
        raise InputError(f"{name}: {what}")
    try:
        return (read_bytes(file) if isinstance(file, Path) else file.read_bytes()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{name}: not UTF-8 text (byte {error.start}): save it as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error


def _check_all_keys(layer: Layer, catalogue: Catalogue) -> None:
    """Check every key of the file, also in backbone tables that do not apply this time."""
    check_keys(layer.recipe, tuple(RecipeTable.model_fields), "[recipe]")
    for use in all_uses(layer):
        names = technique_class(use, catalogue).setting_names()
        check_keys(use, (*names, *USE_KEYS), use_name(use))
    for phase in all_phases(layer):
        check_keys(phase, tuple(PhaseTable.model_fields), "[[phase]]")
    for key, tables in layer.facts.items():
        for table in tables:
            read_table(
                FACT_TABLES[key],
                table.values,
                title=f"[[{key}]]",
                places=table.places,
                place=table.place,
            )
    for part in (layer, *layer.backbones.values()):
        check_keys(part.fit, tuple(FitTable.model_fields), "[fit]")
        check_keys(part.sample, tuple(SampleTable.model_fields), "[sample]")
