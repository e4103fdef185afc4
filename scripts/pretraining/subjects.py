"""The held-out subjects that a system is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GIVEN, KEPT = 3, 4
"""Pictures of a subject that the system is shown, and that it is compared with."""


@dataclass
class Case:
    """One held-out subject: what the system is shown, what it is compared with."""

    name: str
    noun: str
    group: str
    given: Any
    kept: Any
    artifact: Any = None

    @property
    def article(self) -> str:
        """As captions of the world put it before the noun."""
        from pcs_mini.world import grammar

        return grammar.article(self.noun)


def groups(studio: Any, kinds: Sequence[str]) -> dict[str, list[str]]:
    """Return the held-out members by what training never saw: the drawing, the concept, or the style."""
    trained = [
        tuple(name.split("/")[:2]) for kind in kinds for name in studio.names(kind, trained=True)
    ]
    concepts, styles = {c for c, _ in trained}, {s for _, s in trained}
    by_group: dict[str, list[str]] = {}
    for name in (name for kind in kinds for name in studio.names(kind)):
        concept, style = name.split("/")[:2]
        new = [
            w
            for w, known in (("concept", concept in concepts), ("style", style in styles))
            if not known
        ]
        by_group.setdefault(f"new {' and '.join(new) or 'instance'}", []).append(name)
    return {group: by_group[group] for group in sorted(by_group)}


def cases(system: str, count: int, size: int) -> list[Case]:
    """Return ``count`` held-out subjects, evenly from each group: drawings and solids, or people."""
    import torch

    from pcs_core import installed
    from pcs_mini.world import grammar

    studio = installed().get("datasets", "mini.held-out")()
    kinds = ("person",) if system == "instantid" else ("drawn", "solid")
    by_group = groups(studio, kinds)
    each = -(-count // len(by_group))
    chosen = [
        (group, names[int(i * len(names) / each)])
        for i in range(each)
        for group, names in by_group.items()
        if i < len(names)
    ]
    chosen_cases = []
    for group, name in chosen[:count]:
        # a word that training never read says nothing; the kind of thing is what is left
        concept = name.split("/")[0]
        if "concept" in group:
            concept = grammar.kind_of(concept, studio.category(name)) or "thing"
        pictures = studio.references(name, GIVEN + KEPT, seed=5, size=size)
        images = torch.stack([p.image for p in pictures])
        chosen_cases.append(
            Case(name, grammar.noun_of(concept), group, pictures[:GIVEN], images[GIVEN:])
        )
    return chosen_cases


def subject_of(case: Case, number: int) -> Any:
    """Return the given pictures as a subject; people come with their key points."""
    from pcs_core.data import Concept, Subject

    points = [p.points[0] for p in case.given]
    return Subject(
        name=case.name.replace("/", "-"),
        concepts=(Concept(f"it{number}", f"<it{number}>", case.noun),),
        images=tuple(p.image for p in case.given),
        captions=(None,) * len(case.given),
        extra=tuple({} if p is None else {"points": p.tolist()} for p in points),
    )
