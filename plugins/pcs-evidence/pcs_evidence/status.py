"""How far each known system is: computed from what is installed, never written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pcs_core.assembly.load import load_recipe
from pcs_core.assembly.schema import SCOPES, Scope
from pcs_core.catalogue import Catalogue
from pcs_core.catalogue import catalogue as installed
from pcs_core.catalogue.heads import Head
from pcs_core.data.recipe import Recipe
from pcs_core.errors import PcsError, missing_distribution
from pcs_evidence.evidence import (
    Evidence,
    Standing,
    Status,
    highest,
    installed_weights,
    judge,
    judge_unchanged,
    read_evidence,
)
from pcs_evidence.sources import Written, written


@dataclass(frozen=True, slots=True)
class SystemRow:
    """A system as `pcs systems` shows it.

    ``ref`` is the survey's number, ``techniques`` catalogue ids, ``uses`` code ids of the recipe's
    techniques. ``backbones`` are those the recipe is meant for, or the paper's where there is none.
    ``status`` is the furthest over all backbones, ``on`` what is known of each of them. ``missing`` is the
    distribution that the recipe needs and that is not installed, empty where nothing is missing.
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
    on: Mapping[str, Standing] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True, slots=True)
class _Built:
    """What a listing says of a system that has a recipe which loads."""

    on: Mapping[str, Standing]
    uses: tuple[str, ...]
    words: tuple[str, ...]
    facts: Mapping[str, Any]


def system_status(
    id: str, catalogue: Catalogue, evidence: Mapping[str, Mapping[str, Evidence]] | None = None
) -> Status:
    """Return "planned", "loads", "checked", "runs" or "ready": the furthest over all backbones.

    "planned": no recipe that loads with the installed plugins. "loads": it does. "checked": its
    defining check held and its neighbours failed, by evidence of the recipe and code as they are.
    "runs": it drew pictures from references. "ready": the effect of that on its pictures holds.
    """
    known = read_evidence(catalogue) if evidence is None else evidence
    built = _built(id, catalogue, known.get(id, {}))
    return highest(built.on) if built else "planned"


def standings(
    id: str, catalogue: Catalogue, evidence: Mapping[str, Evidence]
) -> dict[str, Standing]:
    """Return backbone id -> how far the system is there, of each backbone with evidence.

    The recipe is resolved for each, which imports its techniques.
    """
    by_backbone: dict[str, Standing] = {}
    plain = _loaded(id, catalogue)
    for backbone, observed in evidence.items():
        recipe = _loaded(id, catalogue, backbone)
        if recipe is None or plain is None:
            continue
        by_backbone[backbone] = judge(
            observed,
            recipe,
            installed_weights(backbone, catalogue),
            replaced=replaced(plain, recipe),
        )
    return by_backbone


def with_sources(evidence: Evidence, catalogue: Catalogue) -> Evidence:
    """Return ``evidence`` with the hash of the sources that it is of, "" where it is outdated.

    Resolves the recipe: this is what a listing is spared while the hash stays the same.
    """
    standing = standings(evidence.system, catalogue, {evidence.backbone: evidence})
    current = standing.get(evidence.backbone)
    now = written(evidence.system, evidence.backbone, catalogue)
    if current is None or current.outdated or now is None:
        return evidence.model_copy(update={"sources": "", "replaced": ()})
    return evidence.model_copy(update={"sources": now.sources, "replaced": current.replaced})


def _built(id: str, catalogue: Catalogue, evidence: Mapping[str, Evidence]) -> _Built | None:
    """Return what is known of a system's recipe, None where none loads. Resolves it only if it must."""
    if id not in catalogue.recipe_files():
        return None
    if evidence and (built := _unchanged(id, catalogue, evidence)):
        return built
    recipe = _loaded(id, catalogue)
    if recipe is None:
        return None
    words = (word for use in recipe.uses for word in use.technique.catalogue)
    return _Built(
        standings(id, catalogue, evidence),
        tuple(dict.fromkeys(use.technique.id for use in recipe.uses)),
        tuple(dict.fromkeys(words)),
        recipe.document["recipe"],
    )


def _unchanged(id: str, catalogue: Catalogue, evidence: Mapping[str, Evidence]) -> _Built | None:
    """Return what is known where nothing that the evidence follows from changed: no technique is imported."""
    now: Written | None = None
    for backbone, observed in evidence.items():
        now = written(id, backbone, catalogue)
        if now is None or observed.sources != now.sources:
            return None
    if now is None:
        return None
    words = (word for use in now.uses for word in catalogue.implements(use))
    on = {
        backbone: judge_unchanged(observed, installed_weights(backbone, catalogue))
        for backbone, observed in evidence.items()
    }
    return _Built(on, now.uses, tuple(dict.fromkeys(words)), now.recipe)


def replaced(plain: Recipe, tuned: Recipe) -> tuple[str, ...]:
    """Return the uses in which the recipe on a backbone differs from the method's own.

    Other numbers are tuning; a use that is added, left out or of another technique is another mechanism.
    """
    before = {use.name: use.technique.id for use in plain.uses}
    after = {use.name: use.technique.id for use in tuned.uses}
    return tuple(
        name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)
    )


def systems(catalogue: Catalogue | None = None) -> list[SystemRow]:
    """Return a row per known system, and one per recipe of a plugin that is none of them."""
    catalogue = catalogue or installed()
    evidence = read_evidence(catalogue)
    heads = catalogue.heads()
    surveyed = [id for id, head in heads.items() if "survey" in head.table]
    others = [id for id in heads if id not in set(surveyed)]
    surveyed.sort(key=lambda id: (SCOPES.index(_scopes(heads[id])[0]), heads[id].table["survey"]))
    return [_row(id, heads[id].table, catalogue, evidence) for id in (*surveyed, *others)]


def _scopes(head: Head) -> tuple[Scope, ...]:
    """Return the known scopes that a head names, "others" where it names none."""
    written = head.table.get("scope") or ()
    return tuple(scope for scope in SCOPES if scope in written) or ("others",)


def where(row: SystemRow) -> str:
    """Return the backbones on which a system is as far as its status says, and what to know there.

    As "mini", "mini (weights cc12378421c6)" where the evidence was made with earlier weights, "mini (other
    mechanism: weights.lora)" where the backbone's overlay adds or leaves out a use.
    """
    parts = [f"not installed: {row.missing}"] if row.missing else []
    for standing in row.on.values():
        if standing.status != row.status and not standing.outdated:
            continue
        remarks = [standing.outdated] if standing.outdated else []
        if standing.older:
            remarks.append(f"weights {standing.older[:12]}")
        if standing.replaced:
            remarks.append(f"other mechanism: {', '.join(standing.replaced)}")
        parts.append(standing.backbone + (f" ({'; '.join(remarks)})" if remarks else ""))
    return ",".join(parts)


def _row(
    id: str,
    facts: Mapping[str, Any],
    catalogue: Catalogue,
    evidence: Mapping[str, Mapping[str, Evidence]],
) -> SystemRow:
    built = _built(id, catalogue, evidence.get(id, {}))
    said = {**built.facts, **facts} if built else facts
    backbones = (built.facts.get("backbones") if built else ()) or facts.get("published_on", ())
    return SystemRow(
        id=id,
        name=str(said.get("name") or id),
        ref=str(facts.get("survey", "")),
        year=facts.get("year"),
        framework=str(said.get("framework") or ""),
        scope=tuple(said.get("scope") or ()),
        techniques=tuple(facts.get("techniques") or (built.words if built else ())),
        uses=built.uses if built else (),
        backbones=tuple(backbones),
        status=highest(built.on) if built else "planned",
        paper=str(said.get("paper") or ""),
        on=built.on if built else {},
        missing="" if built else _missing(id, catalogue),
    )


def _missing(id: str, catalogue: Catalogue) -> str:
    """Return what is not installed where that is why the recipe of ``id`` does not load."""
    if id not in catalogue.recipe_files():
        return ""
    try:
        load_recipe(id, catalogue=catalogue)
    except PcsError as error:
        return missing_distribution(error)
    return ""


def _loaded(id: str, catalogue: Catalogue, backbone: str | None = None) -> Recipe | None:
    if id not in catalogue.recipe_files():
        return None
    try:
        return load_recipe(id, backbone=backbone, catalogue=catalogue)
    except PcsError:
        # its plugins are not (well) installed: `pcs explain` says what is wrong
        return None
