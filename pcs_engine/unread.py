"""What a user laid beside the pictures and no technique of the recipe reads, so that it is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core.data import ALL
from pcs_core.data.later import entries_of
from pcs_core.data.masks import region_name
from pcs_core.data.words import meet
from pcs_engine.doubts import doubts

if TYPE_CHECKING:
    from pcs_core.data import Recipe, Subject


def unread_marks(recipe: Recipe, subject: Subject) -> tuple[str, ...]:
    """Return a sentence for each kind of mark (masks, boxes, points, repeats) that no use of ``recipe`` reads.

    Masks of several concepts always count: they say which picture shows which.
    """
    said = []
    masked = [
        subject.files[i] if i < len(subject.files) else f"picture {i}"
        for i in range(len(subject.images))
        if any(i < len(row) and entries_of(row)[i] is not None for row in subject.masks.values())
    ]
    if masked and len(subject.concepts) == 1 and not reads_masks(recipe):
        said.append(
            f"subject {subject.name!r}: the masks of {_few(masked)} change nothing: no technique of "
            f"{recipe.id!r} reads masks"
        )
    for key, word in (("boxes", "place:box.0"), ("points", "place:points")):
        marked = [
            subject.files[i] if i < len(subject.files) else f"picture {i}"
            for i, extra in enumerate(subject.extra)
            if extra.get(key)
        ]
        if marked and not _read(recipe, word):
            said.append(
                f"subject {subject.name!r}: the {key} of {_few(marked)} change nothing but the crop: no "
                f"technique of {recipe.id!r} reads {key} beside pictures"
            )
    phases = [phase for phase in recipe.phases if phase.steps and not phase.pretrain]
    if len(set(subject.repeats)) > 1 and all(p.batch.get("subject") in (ALL, None) for p in phases):
        said.append(
            f"subject {subject.name!r}: the repeats of its pictures change nothing: no phase of {recipe.id!r} "
            "draws some of them, each shows all or none"
        )
    return (*said, *doubts(subject))


def reads_masks(recipe: Recipe) -> bool:
    """Return whether a use of ``recipe`` does something with the masks of pictures.

    A use that makes examples of examples (it reads "role:subject" too) only carries their masks along.
    """
    word = region_name(0)
    for use in recipe.uses:
        words = use.technique.words()
        read = (*words.reads, *words.may_read)
        if "role:subject" not in read and any(meet(r, f"region:{word}") for r in read):
            return True
    return False


def _read(recipe: Recipe, word: str) -> bool:
    spoken = (use.technique.words() for use in recipe.uses)
    return any(meet(r, word) for words in spoken for r in (*words.reads, *words.may_read))


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
