"""Claims about what holds learned words: terms that begin at nothing, norms that a step leaves alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pcs_core.data.check import CheckRow

if TYPE_CHECKING:
    from pcs_checks.observe import Observation


def from_nothing(
    seen: Observation, *, term: str, phase: str = "", most: float = 1e-5
) -> Iterator[CheckRow]:
    """A loss term is 0 in the first step of a phase, and is more in its last."""
    _ = seen.artifact
    name = phase or seen.recipe.phases[0].name
    values = [s.terms[term].value for s in seen.notes.steps if s.phase == name and term in s.terms]
    first, last = (values[0], values[-1]) if values else (float("nan"), float("nan"))
    yield CheckRow.compare(f"{name}: |{term}| in the first step", abs(first), "<=", most)
    yield CheckRow.compare(f"{name}: {term} in the last step", last, ">", 10 * most)


def keeps_norm(
    seen: Observation, *, within: Sequence[float], phase: str = ""
) -> Iterator[CheckRow]:
    """Learned words keep their norm in steps from a share of the phase to another, and in no other step.

    They go on moving there.
    """
    _ = seen.artifact
    name = phase or seen.recipe.phases[0].name
    steps = [s for s in seen.notes.steps if s.phase == name]
    inside: list[float] = []
    outside: list[float] = []
    moved: list[float] = []
    for before, after in zip(steps, steps[1:], strict=False):
        here = within[0] <= before.index / len(steps) < within[1]
        for row, later in zip(before.words.values(), after.words.values(), strict=True):
            change = (later.norm(dim=-1) / row.norm(dim=-1) - 1).abs()
            (inside if here else outside).append(float(change.max()))
            if here:
                moved.append(float((later - row).abs().max()))
    nothing = [float("nan")]
    yield CheckRow.compare(f"{name}: change of a norm inside", max(inside or nothing), "<=", 1e-5)
    yield CheckRow.compare(f"{name}: way of a word inside", min(moved or nothing), ">", 1e-6)
    if within[0] > 0 or within[1] < 1:
        yield CheckRow.compare(
            f"{name}: change of a norm outside", min(outside or nothing), ">", 1e-5
        )
