"""Subjects and examples: what the user gives, and what the network is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from pcs_core.data.later import LaterField

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing to learn.

    ``token`` is the placeholder users write in prompts (``"<dog>"``), ``noun`` its class
    (``"dog"``), ``kind`` what it is ("object", "face", "style", ...).
    """

    name: str
    token: str
    noun: str
    kind: str = "object"


@dataclass(frozen=True, slots=True)
class Subject:
    """The references of one personalisation.

    ``images`` are RGB tensors [3 h w] in [0, 1], each at its own size (photographs differ; the
    engine resizes), or clips [3 t h w]; a fit also reads uint8 tensors, arrays [h w 3] and PIL pictures.
    Those of a folder are read each time they are looked at (:mod:`pcs_core.data.later`), masks too.
    ``captions`` holds the user's caption or None per image.
    ``masks`` maps a concept name to one [1 h w] tensor in [0, 1] (or None) per image. ``sources`` are
    earlier personalizations to compose. ``files`` names each image for messages. ``others`` are further
    pictures [3 h w] of the subject that are no references, by what a technique takes them for ("clean").
    """

    name: str
    concepts: tuple[Concept, ...]
    images: Sequence[Tensor] = ()
    captions: tuple[str | None, ...] = ()
    masks: Mapping[str, Sequence[Tensor | None]] = field(default_factory=dict)
    sources: tuple[Any, ...] = ()
    files: tuple[str, ...] = ()
    extra: tuple[Mapping[str, Any], ...] = ()
    others: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    valid: Sequence[Tensor | None] = ()
    """Where each picture is a picture [1 h w]: 1, and 0 on the ground around a padded one; None: all of it."""
    alternatives: tuple[tuple[str, ...], ...] = ()
    """Further captions of each picture: in each step its caption or one of these is drawn, all alike."""
    repeats: tuple[int, ...] = ()
    """How often each picture is drawn where another of 1 is drawn once; nothing: all alike."""

    def texts(self, index: int) -> tuple[str, ...]:
        """Return the captions that the user gave picture ``index``, none, one or several."""
        first = self.captions[index] if index < len(self.captions) else None
        more = self.alternatives[index] if index < len(self.alternatives) else ()
        return more if first is None else (first, *more)

    @property
    def concept(self) -> Concept:
        """The first (for most systems the only) concept."""
        return self.concepts[0]


@dataclass(frozen=True)
class Example:
    """One picture the network may be shown in a fit step.

    ``image`` [3 h w] in [0, 1] at the backbone's size; given as a
    :class:`~pcs_core.data.later.Later` it is made each time it is asked for, and ``picture`` is what was
    given. ``captions`` are alternatives: one is drawn
    per use, so that all text can be encoded before the loop; they hold placeholders, not yet
    identifiers. ``role`` is "subject", "prior", "negative", "style"...; ``weight`` multiplies its
    loss. ``index`` is the reference it comes from, or -1. ``extra`` is what techniques read of a batch
    by name, if all examples carry it. ``regions`` are masks by name, [1 h w] in [0, 1] at the size of
    the image: "mask.concept.<k>" is where the subject's k-th concept stands, "mask.<key>" what a
    technique's `mask` gave under another key. One that is missing is empty. ``mask`` weighs the error.
    ``repeats`` is how often it is drawn where another of its role with 1 is drawn once.
    """

    image: Tensor
    captions: tuple[str, ...]
    role: str = "subject"
    weight: float = 1.0
    mask: Tensor | None = None
    concepts: tuple[str, ...] = ()
    subject: int = 0
    index: int = -1
    references: tuple[Any, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    regions: Mapping[str, Tensor] = field(default_factory=dict)
    repeats: int = 1

    @property
    def picture(self) -> Any:
        """The image as it was given, not read; its ``shape`` is known."""
        return self.__dict__["_image"]

    def with_(self, **changes: Any) -> Example:
        """Return a copy with ``changes``."""
        return replace(self, **{"image": self.picture, **changes})


Example.image = LaterField("image")  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Record:
    """One picture of a pre-training set, and who is in it.

    ``image`` [3 h w] in [0, 1]; ``caption`` plain text; ``phrases`` the words of the caption that
    stand for each subject; ``references`` other pictures of each subject, [3 h w] each, one tuple
    per phrase; ``masks`` [1 h w] where each subject is, or None; ``extra`` what techniques read by
    name ("points" [n 2], cameras, codes).
    """

    image: Tensor
    caption: str
    phrases: tuple[str, ...] = ()
    references: tuple[tuple[Tensor, ...], ...] = ()
    masks: tuple[Tensor | None, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class Records(Protocol):
    """A pre-training set: as many records, the same at every reading of an index."""

    def __len__(self) -> int:
        """Return how many records there are."""

    def __getitem__(self, index: int) -> Record:
        """Return one of them."""
