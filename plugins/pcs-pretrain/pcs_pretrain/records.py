"""A record of a data set as a fit knows subjects: its concepts, its references, its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core.data import Concept, Record, Subject

if TYPE_CHECKING:
    pass


def record_concepts(record: Record) -> tuple[Concept, ...]:
    """Return a concept per subject of a record; their tokens stand in no caption."""
    nouns = record.phrases or ("thing",)
    return tuple(Concept(f"{k}", f"<{k}>", noun) for k, noun in enumerate(nouns))


def record_subject(record: Record) -> Subject:
    """Return the references of a record as a subject; each image says whose it is."""
    shown = [(k, image) for k, pictures in enumerate(record.references) for image in pictures]
    # a picture is its own reference where a set has no others
    shown = shown or [(0, record.image)]
    # key points are those of the record's picture: another reference has a pose of its own
    elsewhere = {k: v for k, v in record.extra.items() if k != "points"}
    return Subject(
        name="record",
        concepts=record_concepts(record),
        images=tuple(image for _, image in shown),
        captions=(None,) * len(shown),
        extra=tuple(
            {"concept": f"{k}", **(record.extra if image is record.image else elsewhere)}
            for k, image in shown
        ),
    )


def record_picture(record: Record) -> Subject:
    """Return the picture of a record as a subject of one picture, with the masks that it has."""
    concepts = record_concepts(record)
    return Subject(
        name="record",
        concepts=concepts,
        images=(record.image,),
        captions=(None,),
        masks={c.name: (m,) for c, m in zip(concepts, record.masks, strict=False)},
    )
