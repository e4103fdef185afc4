"""Going on with a finished fit: its tensors are the start, the optimizer and the draws are new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pcs_core.errors import InputError
from pcs_engine.adapters import digest
from pcs_engine.opening import is_of

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Phase, Recipe, Subject


def continued_subject(
    start: Personalization, recipe: Recipe, backbone: Backbone, subjects: Sequence[Subject]
) -> Subject:
    """Return the one subject of ``subjects`` under the name of ``start``, which a fit goes on with.

    What does not train is drawn by the subject's name, so that the name stays.

    Raises
    ------
    InputError
        ``start`` is of another recipe, backbone or subject, or of several that were merged; or there are
        several subjects. Each is named.
    """
    said = f"the artifact of {start.subject!r} to go on with"
    if start.recipe.id != recipe.id:
        raise InputError(f"{said} is a fit of {start.recipe.id!r}, not of {recipe.id!r}")
    uses = [[(u.name, u.technique.id) for u in one.uses] for one in (start.recipe, recipe)]
    if uses[0] != uses[1]:
        other = next(
            (u for u in [*uses[1], *uses[0]] if u not in uses[0] or u not in uses[1]), uses[0][0]
        )
        raise InputError(f"{said} has another list of uses than this recipe: {other[0]!r} differs")
    if start.extra.get("words"):
        raise InputError(f"{said} was merged from several artifacts: continue from one of them")
    if not is_of(start, backbone):
        raise InputError(
            f"{said} was fitted on backbone {start.backbone.id!r} (sha256 {start.backbone.hash[:12]}), "
            f"and {backbone.card.id!r} has other weights ({backbone.card.hash[:12]})"
        )
    if len(subjects) != 1:
        raise InputError(f"{said} is one subject's: give one subject, not {len(subjects)}")
    (subject,) = subjects
    before, now = ([(c.token, c.noun) for c in one.concepts] for one in (start, subject))
    if before != now:
        words, others = _concept_words(before), _concept_words(now)
        raise InputError(
            f"{said} names {words}, and subject {subject.name!r} {others}: give the same"
        )
    return replace(subject, name=start.subject or subject.name)


def steps_behind(artifact: Personalization) -> int:
    """Return how many steps the tensors of ``artifact`` have been trained for, in all fits together."""
    counted: Any = artifact.extra.get("steps")
    if counted is not None:
        return int(counted)
    phases = [p for p in artifact.recipe.phases if not p.pretrain]
    planned = {p.name: p.steps for p in phases}
    stops: Any = artifact.extra.get("stopped", ())
    left = sum(planned.get(stop["phase"], 0) - stop["steps"] for stop in stops)
    return sum(planned.values()) * artifact.recipe.cycles - left


def steps_taken(
    phases: Sequence[Phase], done: int, stopped: Mapping[int, Mapping[str, int]], subject: int
) -> int:
    """Return how many of ``done`` steps ``subject`` trained in: after its stop in a phase it did not."""
    taken = 0
    for number, phase in enumerate(phases):
        here = min(done, phase.steps)
        taken += min(here, stopped.get(number, {}).get(str(subject), here))
        done -= here
    return taken


def adapter_to_keep(start: Personalization, adapter: Any) -> Any:
    """Return which pre-trained weights a fit goes on with: those of ``start`` where it names some.

    Raises
    ------
    InputError
        Others were given.
    """
    reference: Any = start.extra.get("adapter")
    if not reference:
        return adapter
    if adapter is not None:
        raise InputError(f"the artifact of {start.subject!r} names its adapter: give no other")
    return reference["name"]


def origin(start: Personalization, seed: int) -> dict[str, Any]:
    """Return what the manifest says of the artifact that a fit went on with; ``seed`` drew the new steps."""
    return {
        "subject": start.subject,
        "sha256": digest(start.tensors),
        "steps": steps_behind(start),
        "seed": seed,
    }


def _concept_words(concepts: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{token} ({noun})" for token, noun in concepts) or "nobody"
