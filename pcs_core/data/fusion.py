"""What `fuse` returns: everything plugged into the network and its conditioning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.data.edits import (
        AttnEdit,
        BranchEdit,
        Edit,
        HeadEdit,
        InjectEdit,
        LayerEdit,
        PixelEdit,
        StreamEdit,
        SwapEdit,
        TokenEdit,
        WeightEdit,
        Word,
    )


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
    """``weight * mask * (plus - minus)``, added to the positive prediction between start and stop."""

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


class Canvas(Protocol):
    """A source of pictures that has parameters: what a fit renders instead of drawing examples."""

    @property
    def captions(self) -> Sequence[str]:
        """All captions it may give, with placeholders: they are tokenised once."""

    def render(self, count: int, rng: Generator, progress: float) -> Rendered:
        """Return ``count`` pictures with gradients to the canvas."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Pictures [n 3 h w] in [0, 1] of a canvas, a caption each (with placeholders), and ``extra`` [n ...]."""

    images: Tensor
    captions: tuple[str, ...]
    extra: Mapping[str, Tensor] = field(default_factory=dict)


NoiseLaw = Callable[["Generator", "tuple[int, ...]", float], "tuple[Tensor | None, Tensor | None]"]
"""``(rng, shape [b c h w], progress) -> (level, noise)``: noise level of each row [b] in [0, 1] (1 =
pure noise) and its noise; None keeps the usual draw. Acts in fit."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """Result of `fuse`.

    Tuples concatenate in recipe order; ``source``, ``noise_law`` and ``decoder`` are exclusive. ``words`` are
    placeholders that stand for plain text. ``strengths`` are named numbers that edits read as
    ``cond.extra[name]`` [b]: the user changes them at sampling without touching the network.
    ``dropout`` says with which probability a row of a pre-training loses its "text", its "streams" or
    "both". ``records`` globs the attention sites whose maps a fit step keeps on its tape. ``source`` is a
    :class:`Canvas`. ``decoder`` turns the last latents [n c h w] into images [n 3 h w] in [0, 1] in place of
    the backbone's. ``GuidanceTerm.mask`` is a seam, refused so far.
    """

    words: tuple[Word, ...] = ()
    tokens: tuple[TokenEdit, ...] = ()
    attention: tuple[AttnEdit, ...] = ()
    weights: tuple[WeightEdit, ...] = ()
    layers: tuple[LayerEdit, ...] = ()
    pixels: tuple[PixelEdit, ...] = ()
    swaps: tuple[SwapEdit, ...] = ()
    injections: tuple[InjectEdit, ...] = ()
    streams: tuple[StreamEdit, ...] = ()
    branches: tuple[BranchEdit, ...] = ()
    heads: tuple[HeadEdit, ...] = ()
    rows: tuple[Row, ...] = ()
    strengths: Mapping[str, float] = field(default_factory=dict)
    records: tuple[str, ...] = ()
    dropout: Mapping[str, float] = field(default_factory=dict)
    guidance: tuple[GuidanceTerm, ...] = ()
    source: Canvas | None = None
    noise_law: NoiseLaw | None = None
    decoder: Callable[[Tensor], Tensor] | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    def edits(self) -> tuple[Edit, ...]:
        """Return all edits in the order of the fields.

        Tokens, attention, weights, layers, pixels, swaps, injections, streams, branches, heads.
        """
        return (
            *self.tokens,
            *self.attention,
            *self.weights,
            *self.layers,
            *self.pixels,
            *self.swaps,
            *self.injections,
            *self.streams,
            *self.branches,
            *self.heads,
        )
