"""The page of a run (docs/mutants.md): the share of mutants that the tests kill, and each that survives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tried:
    """A mutant that was tried: ``stage`` is what stopped it, "" for a survivor."""

    technique: str
    file: str
    line: int
    operator: str
    stage: str
    diff: str


def report(tried: Sequence[Tried], waiting: int, broken: Iterable[str], goal: float) -> str:
    """Return the page: figures, per technique, and the survivors with their changes.

    ``waiting`` mutants of the sample are not tried yet. ``broken`` are techniques whose guards fail without any
    mutant: nothing can be said about them.
    """
    killed = [t for t in tried if t.stage]
    share = len(killed) / len(tried) if tried else 0.0
    text = (
        "# Mutants of the techniques\n\n"
        "How many small changes of the techniques' code their tests and checks notice, and which they do not. "
        "`make mutants` draws a seeded sample from every technique's file and tries each change; a change that "
        "breaks a test, a documented setting, the contract or a system's check is killed.\n\n"
    )
    text += f"{len(killed)} of {len(tried)} mutants are killed, {100 * share:.1f} %; "
    text += f"the goal is {100 * goal:g} %. "
    text += (
        f"{waiting} of the sample are still to be tried. Equivalent mutants count as survivors.\n"
    )
    for id in broken:
        text += f"\n- `{id}`: its guards fail without a mutant, none of its mutants was tried.\n"
    text += (
        "\n| technique | tried | killed | by unit tests | by its documented settings | by the contract "
        "| by checks | else |\n|---|---|---|---|---|---|---|---|\n"
    )
    for id in sorted({t.technique for t in tried}):
        tries = [t for t in tried if t.technique == id]
        stages = [t.stage for t in tries if t.stage]
        by = [
            sum(s.startswith(word) for s in stages)
            for word in ("unit tests", "documented", "contract", "check")
        ]
        cells = (f"`{id}`", len(tries), len(stages), *by, len(stages) - sum(by))
        text += "| " + " | ".join(map(str, cells)) + " |\n"
    text += "\n## Survivors\n"
    for t in tried:
        if not t.stage:
            text += f"\n`{t.file}:{t.line}` (`{t.technique}`, {t.operator})\n\n```diff\n{t.diff.strip()}\n```\n"
    return text
