"""Which picture of a subject shows which of its concepts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pcs_core.backbone import names_token
from pcs_core.backbone.written import alike, composed, token_pattern
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from pcs_core.data import Concept, Subject


def shown_concepts(subject: Subject, index: int) -> tuple[Concept, ...]:
    """Return the concepts that picture ``index`` shows, in the subject's order.

    What its json or folder says ("concepts" in ``subject.extra``); else those with a mask there that is not
    empty, and those that its caption or the phrase of a box names by token or noun. Where nothing says it: all.
    """
    return said_concepts(subject, index) or subject.concepts


def said_concepts(subject: Subject, index: int) -> tuple[Concept, ...]:
    """Return the same, but nothing where nothing says it. A single concept is in every picture."""
    if len(subject.concepts) < 2:
        return subject.concepts
    if listed := listed_concepts(subject, index):
        return tuple(c for c in subject.concepts if c.name in listed)
    texts = [*subject.texts(index), *_phrases(subject, index)]
    named = {name for text in texts for name in named_concepts(text, subject.concepts)}
    return tuple(c for c in subject.concepts if c.name in named or has_mask_of(subject, c, index))


def listed_concepts(subject: Subject, index: int) -> Sequence[str]:
    """Return the names of the concepts that a picture's json or folder says it shows."""
    extra = subject.extra[index] if index < len(subject.extra) else {}
    listed: Sequence[str] = extra.get("concepts") or (
        [extra["concept"]] if "concept" in extra else ()
    )
    return listed


def _phrases(subject: Subject, index: int) -> list[str]:
    """Return what boxes beside a picture say of whom they hold."""
    extra = subject.extra[index] if index < len(subject.extra) else {}
    boxes = [box for box in extra.get("boxes") or () if isinstance(box, Mapping)]
    return [str(box["phrase"]) for box in boxes if "phrase" in box]


def named_concepts(caption: str, concepts: Sequence[Concept]) -> set[str]:
    """Return the names of the concepts of which a caption speaks, by token or by noun.

    A noun inside another does not count ("hot dog" is no dog), nor does one inside a word of somebody else
    ("<my-dog>"): as where captions are given tokens.
    """
    by_token = {c.name for c in concepts if names_token(caption, c.token)}
    plain = re.sub("|".join(token_pattern(c.token) for c in concepts), " ", composed(caption))
    nouns = sorted({c.noun.strip() for c in concepts if c.noun.strip()}, key=len, reverse=True)
    pattern = "|".join([r"<[^<>\s]+>", *(token_pattern(n, any_case=True) for n in nouns)])
    words = [match[0] for match in re.finditer(pattern, plain)]
    return by_token | {c.name for c in concepts if any(alike(c.noun, word) for word in words)}


def check_shown(subject: Subject) -> None:
    """Refuse a concept that no picture shows: it would be learned from nothing.

    Raises
    ------
    InputError
        Names it, and how to say what a picture shows.
    """
    if not subject.images:
        return
    seen = {c.name for i in range(len(subject.images)) for c in shown_concepts(subject, i)}
    for concept in subject.concepts:
        if concept.name not in seen:
            raise InputError(
                f"subject {subject.name!r}: no picture shows {concept.name!r}: {how_to_name_concepts(subject)}"
            )


def how_to_name_concepts(subject: Subject) -> str:
    """Return how a user says which picture shows which concept."""
    token = subject.concept.token
    return (
        f"name it in a caption (as 'a photo of {token}' in <stem>.txt), lay <stem>.mask.<concept>.png, write "
        '"concepts" into <stem>.json, or give each concept a folder'
    )


def placeholder(concepts: Sequence[Concept]) -> str:
    """Return what captions call these concepts together."""
    return " and ".join(c.token for c in concepts)


def has_mask_of(subject: Subject, concept: Concept, index: int) -> bool:
    """Return whether there is a mask of the concept beside picture ``index`` that is not empty."""
    row = subject.masks.get(concept.name, ())
    mask = row[index] if index < len(row) else None
    return mask is not None and bool(mask.any())
