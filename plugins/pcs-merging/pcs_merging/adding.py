"""The merger "sum": one artifact that draws what several draw together, each at its strength.

What changes weights in proportion to tensors adds up; learned words stand side by side. Low-rank updates of one
layer become one, of concatenated ranks. What `stack_personalizations` refuses is refused here, too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import globs_of, suspended
from pcs_core.data import TokenEdit, WeightEdit
from pcs_core.errors import InputError
from pcs_engine.restoring import restored
from pcs_merging.low_rank_sums import joined, of_rank
from pcs_merging.plain_uses import acts
from pcs_merging.stacking import beyond, stack_personalizations

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Edit, Fusion, Personalization, Site, Use
    from pcs_merging.low_rank_sums import Factors

LOGGER = logging.getLogger("pcs")
LOW_RANK = "weights.lora"
MOST = 1024
"""The highest rank that `weights.lora` has."""


@dataclass(slots=True)
class Sums:
    """Low-rank updates of layers, summed; ``lost`` and ``whole`` are squared norms over all of them."""

    factors: dict[Site, Factors] = field(default_factory=dict)
    lost: float = 0.0
    whole: float = 0.0
    worst: tuple[float, str] = (0.0, "")

    def error(self) -> float:
        """Return the Frobenius norm of what is lost, as a share of that of all updates."""
        return float((self.lost / self.whole) ** 0.5) if self.whole else 0.0


def add_up(
    artifacts: Sequence[Personalization], backbone: Backbone, *, rank: int = 0
) -> Personalization:
    """Return the sum of what changes weights and words, equal to drawing with all of ``artifacts`` together.

    ``rank`` is the highest that a layer's low-rank update may have; 0: as high as the sum needs. What a smaller
    one loses is said, and stored.

    Raises
    ------
    InputError
        One does more than to change weights and words, two want the same for themselves, or nothing is left.
    """
    if not 0 <= rank <= MOST:
        raise InputError(f"rank = {rank}: give 1 to {MOST}, or 0 for as many as the sum needs")
    for artifact in artifacts:
        if (more := beyond(artifact)) is not None:
            raise InputError(
                f"{artifact.subject!r}: what the use {more.name!r} ({more.technique.id}) does is more than to "
                "change weights and words, which is all that adds up: `pcs sample A --add B PROMPT` draws "
                "with both"
            )
    stacked = stack_personalizations(artifacts, names=[p.subject for p in artifacts])
    with suspended(backbone), restored(stacked, backbone, 0) as (_, fusion):
        uses, owners = kept_uses(stacked, fusion)
        sums = summed([e for e in fusion.of(WeightEdit) if e.owner not in owners], rank)
        uses += low_rank_uses(sums, backbone, {use["name"] for use in uses})
        if not uses:
            raise InputError(
                "at these strengths nothing of the artifacts is left: give one that is not 0"
            )
        merged = replace(
            artifacts[0],
            recipe=recipe_of(artifacts[0], uses),
            concepts=tuple({c.token: c for p in artifacts for c in p.concepts}.values()),
            tensors={
                **{n: t for n, t in stacked.tensors.items() if n.partition("/")[0] in owners},
                **tensors_of(sums, uses),
            },
            features={},
            losses={},
            subject=stacked.subject,
            extra={"merged_from": [p.subject for p in artifacts], **facts_of(sums, rank)},
        )
        check_alike(merged, backbone, fusion, owners)
    return merged


def summed(edits: Sequence[WeightEdit], rank: int) -> Sums:
    """Return the sums of the low-rank updates that act in a drawing, of at most ``rank`` (0: any)."""
    by_site: dict[Site, list[Factors]] = {}
    for edit in edits:
        if (product := low_rank_of(edit)) is not None:
            down, up, scale = product
            factors = down.detach().float().cpu(), scale * up.detach().float().cpu()
            if bool(factors[1].any()):  # of strength 0: it would only raise the rank
                by_site.setdefault(edit.site, []).append(factors)
    sums = Sums()
    for site, several in by_site.items():
        factors = joined(several)
        most = min(site.shape[0], prod(site.shape[1:]), MOST)
        allowed = min(most, rank) if rank else most
        if len(factors[0]) > allowed:
            factors, lost, whole = of_rank(factors, allowed)
        else:
            lost, whole = (
                0.0,
                float((factors[1].T @ factors[1]).mul(factors[0] @ factors[0].T).sum()),
            )
        sums.factors[site] = factors
        sums.lost, sums.whole = sums.lost + lost, sums.whole + whole
        sums.worst = max(sums.worst, ((lost / whole) ** 0.5 if whole else 0.0, str(site)))
    return sums


def low_rank_of(edit: Edit) -> tuple[Tensor, Tensor, float] | None:
    """Return the factors and the scale of a low-rank update that acts in a drawing, in all of it."""
    whole = edit.mode != "fit" and (edit.start, edit.stop, edit.group) == (0.0, 1.0, "")
    return edit.low_rank() if isinstance(edit, WeightEdit) and whole else None


def kept_uses(
    stacked: Personalization, fusion: Fusion
) -> tuple[list[dict[str, Any]], frozenset[str]]:
    """Return the tables of the uses that stand in the sum as they are, and their names.

    Left out is what acts in no drawing, gives words alone (the artifact itself says these), or adds low-rank
    updates.
    """
    edits: dict[str, list[Edit]] = {}
    for edit in fusion.edits:
        edits.setdefault(edit.owner, []).append(edit)
    tables = []
    for prefix, part in stacked.parts:
        for use in part.recipe.uses:
            name = prefix + use.name
            acting = [e for e in edits.get(name, ()) if e.mode != "fit"]
            if acts(use) and acting and any(low_rank_of(e) is None for e in acting):
                words = any(isinstance(edit, TokenEdit) for edit in acting)
                several = len(stacked.concepts) > len(part.concepts)
                tables.append(
                    {
                        "technique": use.technique.id,
                        "name": name,
                        **use.technique.document(),
                        **(own_tokens(use, part) if words and several else {}),
                    }
                )
    return tables, frozenset(table["name"] for table in tables)


def own_tokens(use: Use, part: Personalization) -> dict[str, Any]:
    """Return the setting by which a use that learned words gives rows to its own concepts alone.

    Raises
    ------
    InputError
        It has none.
    """
    if "tokens" not in use.technique.setting_names():
        raise InputError(
            f"{part.subject!r}: {use.technique.id} learns words for every concept of a recipe, so that another "
            "subject's cannot stand beside it in one: `pcs sample A --add B PROMPT` draws with both"
        )
    return {"tokens": [concept.token for concept in part.concepts]}


def low_rank_uses(sums: Sums, backbone: Backbone, taken: set[str]) -> list[dict[str, Any]]:
    """Return a table of `weights.lora` for each network, kind of layer and rank."""
    groups: dict[tuple[str, str, int], list[Site]] = {}
    for site, (down, _) in sums.factors.items():
        groups.setdefault((site.part, site.kind, len(down)), []).append(site)
    tables = []
    for (part, kind, rank), sites in groups.items():
        stem = f"lora:{part}"
        numbered = (f"{stem}-{number}" for number in range(2, len(groups) + len(taken) + 3))
        name = next(one for one in (stem, *numbered) if one not in taken)
        taken.add(name)
        among = [s for s in backbone.sites if (s.part, s.kind) == (part, kind)]
        tables.append(
            {
                "technique": LOW_RANK,
                "name": name,
                "rank": rank,
                "sites": globs_of(sites, among),
                "kind": kind,
                "part": part,
            }
        )
    return tables


def tensors_of(sums: Sums, uses: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return the summed updates by the names of an artifact."""
    owners = {
        (use["part"], use["kind"], use["rank"]): use["name"]
        for use in uses
        if use["technique"] == LOW_RANK
    }
    tensors: dict[str, Tensor] = {}
    for site, (down, up) in sums.factors.items():
        name = f"{owners[site.part, site.kind, len(down)]}/{site.name}"
        tensors |= {f"{name}/A": down.contiguous(), f"{name}/B": up.contiguous()}
    return tensors


def recipe_of(artifact: Personalization, uses: Sequence[Mapping[str, Any]]) -> Any:
    """Return the recipe of the sum: the first one's numbers for drawing, ``uses``, and nothing to train."""
    from pcs_core import recipe_from_document

    return recipe_from_document(
        {**artifact.recipe.document, "use": [dict(u) for u in uses], "phase": []}
    )


def facts_of(sums: Sums, rank: int) -> dict[str, Any]:
    """Return what the artifact says of its ranks, and tell what a smaller one lost."""
    if not sums.factors:
        return {}
    ranks = sorted({len(down) for down, _ in sums.factors.values()})
    facts: dict[str, Any] = {"ranks": ranks, "error": sums.error()}
    if sums.error() > 1e-6:
        share, layer = sums.worst
        facts["worst layer"] = {"error": share, "layer": layer}
        LOGGER.warning(
            "of rank %d the updates of %d layers differ from their sum by %.2g of its norm, at most by %.2g, "
            "at %s",
            *(rank or ranks[-1], len(sums.factors), sums.error(), share, layer),
        )
    return {"sum": facts}


def check_alike(
    merged: Personalization, backbone: Backbone, stacked: Fusion, owners: frozenset[str]
) -> None:
    """Refuse a sum in which a use is not what it is in a drawing of all: nothing stored says how it started.

    Raises
    ------
    InputError
        Names the use.
    """
    before = {(e.owner, e.key()): e for e in stacked.edits if e.owner in owners}
    with restored(merged, backbone, 0) as (_, fusion):
        after = {(e.owner, e.key()): e for e in fusion.edits if e.owner in owners}
        for place in before.keys() | after.keys():
            ours, theirs = (state_of(es.get(place)) for es in (before, after))
            if ours.keys() != theirs.keys() or not all(
                torch.equal(ours[name], theirs[name]) for name in ours
            ):
                raise InputError(
                    f"the use {place[0]!r} is another at {place[1]!r} in one recipe with the others: "
                    "`pcs sample A --add B PROMPT` draws with them as they are"
                )


def state_of(edit: Edit | None) -> dict[str, Tensor]:
    """Return the parameters and buffers of an edit by name."""
    if not isinstance(edit, torch.nn.Module):
        return {}
    return {**dict(edit.named_parameters()), **dict(edit.named_buffers())}
