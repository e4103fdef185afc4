"""Evidence that a system works on a backbone: a generated file each, read and judged here.

A file ``evidence/<backbone>/<system>.json`` lies in a package that holds recipes. It says what was
observed of one recipe and one version of the code. What is true of it now is computed: evidence of
another recipe or of changed code is outdated and counts for nothing, evidence of earlier weights of
the backbone still counts and is marked as older.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from pcs_core.assembly.build import document_hash
from pcs_core.catalogue import Catalogue
from pcs_core.data.recipe import Recipe
from pcs_core.errors import PcsError, RecipeError
from pcs_evidence.code_hash import code_hash

Status = Literal["planned", "loads", "checked", "runs", "ready"]
"""How far a system is. Each includes those before it."""
STATUSES: tuple[Status, ...] = get_args(Status)
COUNTED = ("use", "phase", "fit", "sample")
"""Tables of a resolved recipe that evidence is about: not its names and notes."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Run(_Table):
    """A run from a folder of references to pictures.

    ``suite`` and ``subjects`` are a benchmark's, ``commands`` what was called where there is no suite
    for the system. ``pictures`` were drawn, ``seconds`` is how long all of it took.
    """

    suite: str = ""
    subjects: tuple[str, ...] = ()
    pictures: int = 0
    commands: tuple[str, ...] = ()
    seconds: float = 0.0


class Effect(_Table):
    """What the system does to its pictures, against the untuned base under the same noise.

    ``mean`` is the mean over subjects of a metric's paired difference, ``low`` and ``high`` its 95 %
    bootstrap interval over subjects (None with one subject), in units of the metric. ``minimum`` is
    the least difference that counts as doing its job.
    """

    metric: str
    mean: float
    low: float | None
    high: float | None
    minimum: float
    subjects: int
    pictures: int

    @property
    def holds(self) -> bool:
        """Whether the whole interval lies above zero and the mean reaches the minimum."""
        return self.low is not None and self.low > 0 and self.mean >= self.minimum


class Verified(_Table):
    """A published checkpoint on which the system was run: its name, its hash, and what was seen."""

    checkpoint: str
    hash: str
    seen: str


class Evidence(_Table):
    """Everything observed of one system on one backbone.

    ``recipe`` and ``code`` are the hashes of :func:`recipe_hash` and :func:`code_hash` at the time,
    ``weights`` the backbone's digest. ``checked`` says that the defining check held and that every
    neighbour failed. ``measured`` are means of further metrics over all pictures. ``probe`` is a picture of
    a brief fit, as numbers: code that still draws it is the same code to this evidence. ``sources`` is a hash
    of all that ``recipe`` and ``code`` follow from (:mod:`pcs_evidence.sources`): while it is the same, so are
    they, and ``replaced`` names the uses in which the backbone's overlay differs (:class:`Standing`).
    """

    system: str
    backbone: str
    recipe: str
    code: str
    weights: str = ""
    checked: bool = False
    run: Run | None = None
    effect: Effect | None = None
    measured: dict[str, float] = {}
    probe: tuple[float, ...] = ()
    verified: tuple[Verified, ...] = ()
    sources: str = ""
    replaced: tuple[str, ...] = ()

    def render(self) -> str:
        """Return the text of its file."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a system is on one backbone.

    ``outdated`` is why its evidence counts for nothing, ``older`` names the weights it was made with
    where the installed ones are newer, ``replaced`` the uses that the backbone's overlay adds or
    leaves out: there the mechanism is another one.
    """

    backbone: str
    status: Status
    outdated: str = ""
    older: str = ""
    replaced: tuple[str, ...] = ()
    evidence: Evidence | None = field(default=None, repr=False)


def recipe_hash(recipe: Recipe) -> str:
    """Return the sha256 (hex) of what ``recipe`` does: its resolved uses, phases and numbers."""
    return document_hash({key: recipe.document.get(key) for key in COUNTED})


def recipe_code_hash(recipe: Recipe) -> str:
    """Return the sha256 (hex) of the code of the techniques that ``recipe`` uses."""
    return code_hash({type(use.technique) for use in recipe.uses})


def read_evidence(catalogue: Catalogue) -> dict[str, dict[str, Evidence]]:
    """Return system id -> backbone id -> evidence, of all installed packages.

    Raises
    ------
    RecipeError
        A file is no evidence, or of another system or backbone than its path says.
    """
    read: dict[str, dict[str, Evidence]] = {}
    for (backbone, system), file in catalogue.evidence_files().items():
        place = f"evidence/{backbone}/{file.name}"
        try:
            evidence = Evidence.model_validate_json(file.read_bytes(), strict=False)
        except (OSError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise RecipeError(f"{place}: no evidence: {reason}") from error
        if (evidence.system, evidence.backbone) != (system, backbone):
            raise RecipeError(
                f"{place}: it says that it is of {evidence.system!r} on {evidence.backbone!r}"
            )
        read.setdefault(system, {})[backbone] = evidence
    return read


def judge(
    evidence: Evidence, recipe: Recipe, weights: str, *, replaced: tuple[str, ...] = ()
) -> Standing:
    """Return what ``evidence`` is worth for ``recipe``, resolved for its backbone, on ``weights``."""
    outdated = ""
    if evidence.recipe != recipe_hash(recipe):
        outdated = "the recipe changed since"
    elif evidence.code != recipe_code_hash(recipe):
        outdated = "the code of its techniques changed since"
    return _standing(evidence, weights, replaced, outdated)


def judge_unchanged(evidence: Evidence, weights: str) -> Standing:
    """Return what ``evidence`` is worth where its ``sources`` are those that are installed."""
    return _standing(evidence, weights, evidence.replaced, "")


def _standing(
    evidence: Evidence, weights: str, replaced: tuple[str, ...], outdated: str
) -> Standing:
    return Standing(
        backbone=evidence.backbone,
        status="loads" if outdated else _reached(evidence),
        outdated=outdated,
        older=evidence.weights if weights and evidence.weights not in ("", weights) else "",
        replaced=replaced,
        evidence=evidence,
    )


def _reached(evidence: Evidence) -> Status:
    """Each step needs those before it: pictures of what failed its check prove nothing."""
    if not evidence.checked:
        return "loads"
    if evidence.run is None:
        return "checked"
    if evidence.effect is None or not evidence.effect.holds:
        return "runs"
    return "ready"


def installed_weights(backbone: str, catalogue: Catalogue) -> str:
    """Return the digest of the installed weights of ``backbone``, or "" where none says it."""
    name = f"{backbone}.weights"
    if name not in catalogue.ids("datasets"):
        return ""
    try:
        return str(catalogue.get("datasets", name)())
    except (PcsError, OSError):
        return ""


def highest(standings: Mapping[str, Standing]) -> Status:
    """Return the furthest status over all backbones; "loads" where there is no evidence."""
    reached = [standing.status for standing in standings.values()]
    return max(reached, key=STATUSES.index, default="loads")


def plain(standing: Standing) -> dict[str, Any]:
    """Return a standing as JSON-able data for ``--json``."""
    effect = standing.evidence.effect if standing.evidence else None
    return {
        "backbone": standing.backbone,
        "status": standing.status,
        "outdated": standing.outdated,
        "older": standing.older,
        "replaced": list(standing.replaced),
        "effect": effect.model_dump(mode="json") if effect else None,
        "verified": [v.model_dump(mode="json") for v in standing.evidence.verified]
        if standing.evidence
        else [],
    }
