"""From merged tables to a recipe: techniques made, numbers checked, the document written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pcs_core.arguments import checks_arguments
from pcs_core.assembly.layers import model_name, phase_name, use_name
from pcs_core.assembly.schema import (
    USE_KEYS,
    FitTable,
    HeadTable,
    ModelTable,
    PhaseTable,
    RecipeTable,
    SampleTable,
    read_table,
)
from pcs_core.assembly.stored import with_names_of_today
from pcs_core.assembly.tables import Layer, Table, layer_of
from pcs_core.assembly.words import check_words
from pcs_core.catalogue import Catalogue
from pcs_core.catalogue import catalogue as installed
from pcs_core.data.recipe import FurtherModel, Recipe, SampleSettings, Use
from pcs_core.errors import PcsError, RecipeError, nearest
from pcs_core.technique import Technique


@checks_arguments
def recipe_from_document(
    document: Mapping[str, Any],
    *,
    catalogue: Catalogue | None = None,
    source: str = "",
    place: str = "document",
) -> Recipe:
    """Build the recipe of this :attr:`Recipe.document`; ``place`` names it in messages.

    Raises
    ------
    RecipeError
        The document is no recipe, or names a technique that is not installed.
    """
    holding = catalogue or installed()
    layer = layer_of(with_names_of_today(document, holding), place)
    return build(layer, holding, source=source, stored=True)


def build(
    layer: Layer, catalogue: Catalogue, *, source: str, path: str = "", stored: bool = False
) -> Recipe:
    """Build a recipe from tables that are merged already; ``stored`` ones are a document's.

    Raises
    ------
    RecipeError
        Anything that is wrong with it, at its place.
    """
    recipe = layer.recipe
    table = read_table(
        HeadTable if stored else RecipeTable,
        recipe.values,
        title="[recipe]",
        places=recipe.places,
        place=recipe.place,
    )
    head = HeadTable(**{name: getattr(table, name) for name in HeadTable.model_fields})
    if not layer.uses:
        raise RecipeError(f"{recipe.place}: recipe {head.id!r} uses no technique: add a [[use]]")
    uses = tuple(make_use(table, catalogue) for table in layer.uses)
    models = [_table(ModelTable, m, f"model {model_name(m)!r}") for m in layer.models]
    places = {model_name(m): m.where("name") for m in layer.models}
    check_words(uses, [table.where("technique") for table in layer.uses], places)
    phases = [_table(PhaseTable, p, f"phase {phase_name(p)!r}") for p in layer.phases]
    fit = _table(FitTable, layer.fit, "[fit]")
    sample = _table(SampleTable, layer.sample, "[sample]")
    document = {
        "recipe": head.model_dump(mode="json"),
        "use": [
            {"technique": use.technique.id, "name": use.name, **use.technique.document()}
            for use in uses
        ],
        "phase": [phase.document() for phase in phases],
        "fit": fit.document(),
        "sample": sample.model_dump(mode="json"),
    }
    if models:  # documents written before have no such key
        document["model"] = [model.document() for model in models]
    return Recipe(
        **head.model_dump(),
        uses=uses,
        phases=tuple(phase.phase() for phase in phases),
        models=tuple(FurtherModel(**model.model_dump()) for model in models),
        cycles=fit.cycles,
        caption_dropout=fit.caption_dropout,
        sample=SampleSettings(**sample.model_dump()),
        source=source,
        document=document,
        hash=document_hash(document),
        path=path,
        origins=origins(layer),
        check=layer.check,
        not_on=table.not_on if isinstance(table, RecipeTable) else {},
    )


def origins(layer: Layer) -> dict[str, str]:
    """Return where each number of merged tables was written: see :attr:`Recipe.origins`."""
    tables = [(use_name(use), use) for use in layer.uses]
    tables += [(phase_name(phase), phase) for phase in layer.phases]
    tables += [(model_name(model), model) for model in layer.models]
    tables += [("fit", layer.fit), ("sample", layer.sample)]
    return {
        f"{name}.{key}": table.where(key)
        for name, table in tables
        for key in table.values
        if key not in (*USE_KEYS, "pretrain")
    }


def document_hash(document: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of the canonical JSON of ``document``."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def technique_class(use: Table, catalogue: Catalogue) -> type[Technique]:
    """Return the class of the technique that a ``[[use]]`` names.

    Raises
    ------
    RecipeError
        Unknown (names the nearest), not installed (names the distribution), or no technique.
    """
    id = use.values.get("technique")
    place = use.where("technique")
    if not isinstance(id, str):
        raise RecipeError(f'{place}: [[use]] without a technique (technique = "<id>")')
    try:
        cls = catalogue.get("techniques", id)
    except PcsError as error:
        raise RecipeError(f"{place}: {error}") from error
    where = catalogue.where("techniques", id)
    if not isinstance(cls, type) or not issubclass(cls, Technique):
        raise RecipeError(f"{place}: technique {id!r} ({where}) is no subclass of Technique")
    if cls.id != id:
        raise RecipeError(f"{place}: technique {id!r} ({where}) calls itself {cls.id!r}")
    reserved = [key for key in USE_KEYS if key in cls.setting_names()]
    if reserved:
        raise RecipeError(
            f"{place}: technique {id!r} has a setting {reserved[0]!r}, a word that recipes reserve"
        )
    return cls


def check_keys(table: Table, known: tuple[str, ...], title: str) -> None:
    """Refuse a key of ``table`` that is not among ``known``, at its place, with the nearest one.

    Raises
    ------
    RecipeError
        There is such a key.
    """
    for key in table.values:
        if key not in known:
            hint = nearest(key, known) or f" (known: {', '.join(known) or 'none'})"
            place = f"{table.where(key)}: " if table.where(key) else ""
            raise RecipeError(f"{place}{title}: unknown setting {key!r}{hint}")


def make_use(table: Table, catalogue: Catalogue) -> Use:
    """Return the use that a ``[[use]]`` describes. Raises as `technique_class`, and for its settings."""
    name = use_name(table)
    cls = technique_class(table, catalogue)
    _check_name(name, table)
    check_keys(table, (*cls.setting_names(), *USE_KEYS), name)
    settings = {key: value for key, value in table.values.items() if key not in USE_KEYS}
    try:
        return Use(name, cls.from_settings(settings, place=table.place))
    except RecipeError as error:
        place = table.where(_faulty_key(error))
        if place == table.place:
            raise
        # the use spreads over a file, a backbone table and --set: name the one at fault
        return Use(name, cls.from_settings(settings, place=place))


def _faulty_key(error: RecipeError) -> str:
    cause = error.__cause__
    if isinstance(cause, ValidationError) and (location := cause.errors()[0]["loc"]):
        return str(location[0])
    return ""


def _check_name(name: str, table: Table) -> None:
    # names stand in globs ("<use>/<site>/<param>") and in --set
    if not name or any(c.isspace() or c in "/*?[]=" for c in name):
        raise RecipeError(
            f"{table.where('name')}: a use may not be called {name!r}: leave out spaces and /*?[]="
        )


def _table(model: Any, table: Table, title: str) -> Any:
    return read_table(model, table.values, title=title, places=table.places, place=table.place)
