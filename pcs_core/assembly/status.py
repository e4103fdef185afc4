"""How far each known system is: computed from what is installed, never written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pcs_core.assembly.load import load_recipe, system_hash
from pcs_core.catalogue import Catalogue
from pcs_core.catalogue import catalogue as installed
from pcs_core.data.recipe import Recipe
from pcs_core.errors import PcsError

Status = Literal["ready", "recipe", "planned"]
FACTS = "catalogue.systems"
EVIDENCE = "evidence"


@dataclass(frozen=True, slots=True)
class SystemRow:
    """A system as `pcs systems` shows it.

    ``ref`` is the survey's number, ``techniques`` catalogue ids, ``uses`` code ids of the recipe's
    techniques. ``backbones`` are those the recipe is meant for, or the paper's where there is none.
    """

    id: str
    name: str
    ref: str
    year: int | None
    framework: str
    scope: tuple[str, ...]
    techniques: tuple[str, ...]
    uses: tuple[str, ...]
    backbones: tuple[str, ...]
    status: Status
    paper: str


def read_evidence(catalogue: Catalogue) -> Mapping[str, Any]:
    """Return the recorded end-to-end runs: system id -> ``{recipe_hash, backbone, ...}``.

    Without a plugin that holds them there are none.
    """
    if EVIDENCE not in catalogue.ids("datasets"):
        return {}
    evidence = catalogue.get("datasets", EVIDENCE)()
    return evidence if isinstance(evidence, Mapping) else {}


def system_status(id: str, catalogue: Catalogue, evidence: Mapping[str, Any]) -> Status:
    """Return "ready", "recipe" or "planned".

    "recipe": its recipe loads with the installed plugins. "ready": its check is registered as well,
    and ``evidence`` holds a run of the recipe as it is now, on a backbone it still loads for, with the
    weights that are installed (the data set ``<backbone>.weights``, where a plugin holds one).
    """
    return _status(id, _loaded(id, catalogue), catalogue, evidence)


def systems(catalogue: Catalogue | None = None) -> list[SystemRow]:
    """Return a row per known system, and one per recipe of a plugin that is none of them."""
    held = catalogue or installed()
    evidence = read_evidence(held)
    entries = list(held.get("datasets", FACTS)()) if FACTS in held.ids("datasets") else []
    known = {entry.id for entry in entries}
    rows = [_row(entry.id, entry, held, evidence) for entry in entries]
    return rows + [_row(id, None, held, evidence) for id in held.recipe_files() if id not in known]


def _row(id: str, fact: Any, catalogue: Catalogue, evidence: Mapping[str, Any]) -> SystemRow:
    recipe = _loaded(id, catalogue)
    uses = tuple(dict.fromkeys(use.technique.id for use in recipe.uses)) if recipe else ()
    words = [word for use in recipe.uses for word in use.technique.catalogue] if recipe else []
    year = getattr(fact, "year", None)
    return SystemRow(
        id=id,
        name=getattr(fact, "name", "") or (recipe.name if recipe else "") or id,
        ref=str(getattr(fact, "ref", "")),
        year=int(year) if year else None,
        framework=getattr(fact, "framework", "") or (recipe.framework if recipe else ""),
        scope=tuple(getattr(fact, "scope", ()) or (recipe.scope if recipe else ())),
        techniques=tuple(getattr(fact, "techniques", ())) if fact else tuple(dict.fromkeys(words)),
        uses=uses,
        backbones=(recipe.backbones if recipe else ()) or tuple(getattr(fact, "backbones", ())),
        status=_status(id, recipe, catalogue, evidence),
        paper=getattr(fact, "paper", "") or (recipe.paper if recipe else ""),
    )


def _status(
    id: str, recipe: Recipe | None, catalogue: Catalogue, evidence: Mapping[str, Any]
) -> Status:
    if recipe is None:
        return "planned"
    run = evidence.get(id)
    if not isinstance(run, Mapping) or id not in catalogue.ids("checks"):
        return "recipe"
    if run.get("recipe_hash") != system_hash(id, catalogue=catalogue):
        return "recipe"
    weights = f"{run.get('backbone')}.weights"
    known = weights in catalogue.ids("datasets")
    if known and run.get("weights") != catalogue.get("datasets", weights)():
        return "recipe"
    return "ready" if _loaded(id, catalogue, run.get("backbone")) else "recipe"


def _loaded(id: str, catalogue: Catalogue, backbone: str | None = None) -> Recipe | None:
    if id not in catalogue.recipe_files():
        return None
    try:
        return load_recipe(id, backbone=backbone, catalogue=catalogue)
    except PcsError:
        # its plugins are not (well) installed: `pcs explain` says what is wrong
        return None
