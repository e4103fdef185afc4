"""What a user should know of which picture shows which concept, where what lies in the folder disagrees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pcs_core.backbone import names_token
from pcs_core.backbone.written import alike
from pcs_engine.prepare import name_subject
from pcs_engine.shown import (
    has_mask_of,
    how_to_name_concepts,
    listed_concepts,
    named_concepts,
    said_concepts,
    shown_concepts,
)

if TYPE_CHECKING:
    from pcs_core.data import Subject

MOST = 3
"""Sentences of a kind that are shown; the number of all is said."""


def doubts(subject: Subject) -> list[str]:
    """Return sentences on pictures of several concepts: whom nothing names, who is named and does not count.

    Of one concept there is a doubt about tokens alone, which a caption may write in another case.
    """
    said = _few(subject, list(_other_case(subject)))
    if len(subject.concepts) < 2:
        return said
    count = len(subject.images)
    silent = [i for i in range(count) if not said_concepts(subject, i)]
    if silent and len(silent) < count:
        names = [_file(subject, i) for i in silent]
        more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
        everybody = ", ".join(c.name for c in subject.concepts)
        said.append(
            f"subject {subject.name!r}: nothing says whom {', '.join(names[:MOST])}{more} shows, so all count "
            f"({everybody}): {how_to_name_concepts(subject)}"
        )
    said += _few(subject, list(_left_out(subject)))
    said += _few(subject, list(_without_token(subject)))
    return said


def _left_out(subject: Subject) -> Iterator[str]:
    """Yield whose mask or caption does not count, as a json or folder names others."""
    for index in range(len(subject.images)):
        listed = listed_concepts(subject, index)
        named = {n for text in subject.texts(index) for n in named_concepts(text, subject.concepts)}
        for concept in subject.concepts if listed else ():
            masked = has_mask_of(subject, concept, index)
            if concept.name not in listed and (masked or concept.name in named):
                yield (
                    f"the {'mask' if masked else 'caption'} of {_file(subject, index)} shows {concept.name!r}, "
                    f"and its json or folder says {', '.join(listed)} alone, which counts"
                )


def _without_token(subject: Subject) -> Iterator[str]:
    """Yield captions that name not all whom their picture shows."""
    for index in range(len(subject.images)):
        texts = [name_subject(text, subject, index) for text in subject.texts(index)]
        for concept in shown_concepts(subject, index) if texts else ():
            if not any(names_token(text, concept.token) for text in texts):
                yield (
                    f"{_file(subject, index)} shows {concept.name!r}, and its caption, {texts[0]!r}, does not "
                    f"name it: write {concept.token} or {concept.noun!r} there"
                )


def _other_case(subject: Subject) -> Iterator[str]:
    """Yield words of captions that are a token but for their case, which counts."""
    for index in range(len(subject.images)):
        for text in subject.texts(index):
            for word in re.findall(r"<[^<>\s]+>", text):
                for concept in subject.concepts:
                    if word != concept.token and alike(word, concept.token):
                        yield f"the caption of {_file(subject, index)} has {word}, which is not {concept.token}"


def _few(subject: Subject, sentences: list[str]) -> list[str]:
    said = [f"subject {subject.name!r}: {text}" for text in sentences[:MOST]]
    if len(sentences) > MOST:
        said[-1] += f" (and {len(sentences) - MOST} more like this)"
    return said


def _file(subject: Subject, index: int) -> str:
    return subject.files[index] if index < len(subject.files) else f"picture {index}"
