"""What `fuse` returns: everything plugged into the network and its conditioning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from pcs_core.edits.edit import Edit
from pcs_core.errors import nearest

if TYPE_CHECKING:
    from torch import Generator, Tensor

E = TypeVar("E", bound=Edit)


@dataclass(frozen=True, slots=True)
class Word:
    """A placeholder that is plain text to the tokenizer: ``token`` becomes ``text``.

    ``noun`` is not repeated when it already follows the placeholder in the prompt. ``subject`` is the
    index of the subject whose prompts it applies to, or None for all.
    """

    token: str
    text: str
    noun: str = ""
    subject: int | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """One side of a guidance term: plain data.

    ``prompt`` is "positive", "negative", "" or a text; ``drop`` names streams left out; ``edits``
    globs of uses that act; ``model`` as in ``evaluate``. Equal branches are evaluated once.
    """

    prompt: str = "positive"
    drop: tuple[str, ...] = ()
    edits: str = "*"
    model: str = "self"


@dataclass(frozen=True, slots=True)
class GuidanceTerm:
    """``weight * mask * (plus - minus)``, added to the positive prediction between start and stop.

    ``mask`` names what weighs the term per latent position: a box of the layout ("box.<k>") or a feature
    [1 h w] of the subject, values in [0, 1]; None weighs all alike.
    """

    plus: Branch
    minus: Branch
    weight: float
    start: float = 0.0
    stop: float = 1.0
    mask: str | None = None


RowLatents = Literal["noise", "target", "trajectory"]


@dataclass(frozen=True, slots=True)
class Row:
    """One more image in every branch of the sampling batch, beside the pictures asked for.

    ``latents``: "noise" (its own), "target" (the first picture's noise), or "trajectory" (an inverted
    reference, at each step the stored latents of that level: the feature ``key`` [steps+1 c h w],
    from picture's to pure noise). ``prompt`` is a text, or "{prompt}" for that of the first picture.
    ``edits`` globs the uses that act on it. Edits find it in ``cond.extra["row.<role>"]``: for each
    batch row the index [b] of this row in the same guidance branch. ``role`` "target" is taken.
    """

    role: str
    latents: RowLatents = "noise"
    key: str = ""
    prompt: str = "{prompt}"
    edits: str = "*"
    returned: bool = False


@dataclass(frozen=True, slots=True)
class FitRow:
    """One more example beside each row of a fit step's batch, in the same forward: edits read it, no loss does.

    ``example`` is the role of the examples of the row's own subject that it is drawn from. ``level``: "same"
    (noised to the level of the row, with noise of its own) or "clean" (as it is, at the lowest level). Its
    text is the example's. Edits find it in ``cond.extra["row.<role>"]``, as a :class:`Row` of sampling.
    """

    role: str
    example: str = "subject"
    level: Literal["same", "clean"] = "clean"


@dataclass(frozen=True, slots=True)
class Constraint:
    """Where each step of a training leaves parameters that train in it.

    ``glob`` is over ``"<use>/<site or token>/<param>"``. ``project(name, before, after, progress)`` returns the
    value of a parameter behind a step that took it from ``before`` to ``after``; ``progress`` is the share of
    the phase's steps in front of this one. What is stored, drawn with and exported is what it returns.
    """

    glob: str
    project: Callable[[str, Tensor, Tensor, float], Tensor]


class Renderable(Protocol):
    """A source of pictures that has parameters: what a fit renders instead of drawing examples."""

    @property
    def captions(self) -> Sequence[str]:
        """All captions it may give, with placeholders: they are tokenised once."""

    def render(self, count: int, rng: Generator, progress: float) -> Rendered:
        """Return ``count`` pictures with gradients to what is rendered."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Pictures [n 3 h w] in [0, 1], a caption each (with placeholders), and ``extra`` [n ...]."""

    images: Tensor
    captions: tuple[str, ...]
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class PromptReader(Protocol):
    """How prompts are read when pictures are drawn: which words have a weight, and what it does."""

    def parts(self, text: str) -> Sequence[tuple[str, float]]:
        """Return the pieces of ``text`` in order as they are to be read, each with its weight."""

    def tell(self, text: str) -> None:
        """Say once what of a prompt looks like a weight and is none as it is read."""

    def weigh(self, text: Tensor, weights: Tensor, empty: Callable[[], Tensor]) -> Tensor:
        """Return what the encoder says [n l d], weighed; ``weights`` [n l], 1 at start, end and padding.

        A row is one window of one encoder. ``empty`` returns what it says of no words [n l d].
        """


TimestepSampler = Callable[
    ["Generator", "tuple[int, ...]", float], "tuple[Tensor | None, Tensor | None]"
]
"""``(rng, shape [b c h w], progress) -> (level, noise)``: noise level of each row [b] in [0, 1] (1 =
pure noise) and its noise; None keeps the usual draw. Acts in fit."""

BY_KIND = tuple(
    "tokens attention weights layers pixels swaps injections streams branches heads".split()
)
"""What the edits of one kind were called when each kind had a field of its own."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """Result of `fuse`.

    ``edits`` are all edits, of any kinds in any order: they stand by kind, and in the order given within a
    kind. Tuples concatenate in recipe order; ``source``, ``timestep_sampler``, ``decoder`` and ``reader`` are
    exclusive. ``rows`` are further pictures of a sampling, ``fit_rows`` further examples beside those of a
    fit step. ``words`` are placeholders that stand for plain text. ``strengths`` are named numbers that
    edits read as ``cond.extra[name]`` [b]: the user changes them at sampling without touching the network.
    ``dropout`` says with which probability a row of a pre-training loses its "text", its "streams" or
    "both", and each of its "subjects" its reference alone. ``records`` globs the attention sites whose maps
    a fit step keeps on its tape; ``constraints`` are what its update keeps to. ``source`` is a
    :class:`Renderable`. ``decoder`` turns the last latents [n c h w] into images [n 3 h w] in [0, 1] in place
    of the backbone's. ``reader`` is a :class:`PromptReader`
    of the drawings' prompts; captions are read as they are written.

    Raises
    ------
    TypeError
        An unknown keyword, or something among ``edits`` that is none.
    """

    edits: tuple[Edit, ...] = ()
    words: tuple[Word, ...] = ()
    rows: tuple[Row, ...] = ()
    fit_rows: tuple[FitRow, ...] = ()
    records: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    guidance: tuple[GuidanceTerm, ...] = ()
    strengths: Mapping[str, float] = field(default_factory=dict)
    dropout: Mapping[str, float] = field(default_factory=dict)
    source: Renderable | None = None
    timestep_sampler: TimestepSampler | None = None
    decoder: Callable[[Tensor], Tensor] | None = None
    reader: PromptReader | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    """Of each thing that has one owner, the use it came from; set by the core at merge."""

    def __new__(cls, *args: Any, **named: Any) -> Fusion:
        """Refuse an unknown keyword with what to write instead."""
        known = [f.name for f in fields(cls)]
        for name in named:
            if name in BY_KIND:
                raise TypeError(
                    f"Fusion has no field {name!r}: write edits=(...), one tuple for edits of all kinds"
                )
            if name not in known:
                raise TypeError(
                    f"Fusion has no field {name!r}"
                    f"{nearest(name, known) or ': it has ' + ', '.join(known)}"
                )
        return object.__new__(cls)

    def __post_init__(self) -> None:
        for edit in self.edits:
            if not isinstance(edit, Edit):
                raise TypeError(f"Fusion.edits holds a {type(edit).__name__}: give edits only")
        # by kind, so that neither parameters nor what is bound depends on how a technique lists them
        object.__setattr__(self, "edits", tuple(sorted(self.edits, key=lambda e: e.LISTED)))

    def of(self, kind: type[E]) -> tuple[E, ...]:
        """Return the edits of one kind, in order."""
        return tuple(edit for edit in self.edits if isinstance(edit, kind))

    def inside(self, part: str) -> tuple[Edit, ...]:
        """Return the edits that act at sites of ``part`` ("denoiser", "text" or "vae"), in order."""
        return tuple(e for e in self.edits if hasattr(e, "site") and e.part == part)
