"""The words by which techniques of a recipe meet: what one gives under a name and another reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

KINDS: Mapping[str, str] = {
    "feature": "a tensor of `extract`, in features.tensors",
    "stream": "conditioning tokens, in cond.streams",
    "strength": "a number that sampling may set, in cond.extra",
    "row": "an image beside the pictures, whose index is cond.extra['row.<name>']",
    "head": "a module in run.heads",
    "role": "examples, rows of batch.rows(<name>)",
    "region": "masks of examples, in batch.regions",
    "mask": "weights of the error, in step.masks",
    "extra": "what examples or a renderable carry, in batch.extra",
    "model": "a further model of the recipe, which step.evaluate(..., model=<name>) asks",
    "place": "token positions, boxes and points of a prompt, in cond.spans, cond.masks and cond.extra",
}
"""Kind of a word -> where it is found. A word is written "<kind>:<name>"; a name may be a glob."""

EXCLUSIVE = ("feature", "stream", "strength", "row", "head")
"""Kinds of which a word has one writer in a recipe; of the others, several writers add up."""

GIVEN = (
    "region:mask.concept.*",
    "role:subject",
    "extra:picture.size",
    "extra:picture.corner",
    "place:concept.*",
    "place:phrase.*",
    "place:box.*",
    "place:region.*",
    "place:points",
    "place:picture",
)
"""Words that the user and the engine give: masks and pictures, prompts and their layout."""


@dataclass(frozen=True, slots=True)
class Words:
    """What one use reads and writes. ``may_read`` is read where somebody writes it."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for word in (*self.reads, *self.writes, *self.may_read):
            kind, colon, name = word.partition(":")
            if kind not in KINDS or not colon or not name:
                raise ValueError(
                    f"{word!r} is no word: write '<kind>:<name>', the kind one of {', '.join(KINDS)}"
                )


def meet(read: str, written: str) -> bool:
    """Return whether what is ``written`` may be what is ``read``: equal, or one a glob of the other."""
    return fnmatchcase(written, read) or fnmatchcase(read, written)
