"""What `fuse` returns: everything plugged into the network and its conditioning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.data.edits import (
        AttnEdit,
        Edit,
        InjectEdit,
        LayerEdit,
        PixelEdit,
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


@dataclass(frozen=True, slots=True)
class Stream:
    """Conditioning tokens computed once per batch inside autograd by ``module`` from ``reads``."""

    reads: tuple[str, ...]
    module: nn.Module


NoiseLaw = Callable[[Any, int, float], "tuple[Tensor, Tensor]"]


@dataclass(frozen=True, slots=True)
class Fusion:
    """Result of `fuse`.

    Tuples concatenate in recipe order; ``source`` and ``noise_law`` are exclusive. ``words`` are
    placeholders that stand for plain text. ``streams``, ``heads``, ``source``, ``noise_law``,
    ``GuidanceTerm.mask`` and ``Branch.drop`` are seams, refused so far.
    """

    words: tuple[Word, ...] = ()
    tokens: tuple[TokenEdit, ...] = ()
    attention: tuple[AttnEdit, ...] = ()
    weights: tuple[WeightEdit, ...] = ()
    layers: tuple[LayerEdit, ...] = ()
    pixels: tuple[PixelEdit, ...] = ()
    swaps: tuple[SwapEdit, ...] = ()
    injections: tuple[InjectEdit, ...] = ()
    streams: Mapping[str, Stream] = field(default_factory=dict)
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    guidance: tuple[GuidanceTerm, ...] = ()
    source: Any | None = None
    noise_law: NoiseLaw | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    def edits(self) -> tuple[Edit, ...]:
        """Return all edits in the order of the fields.

        Tokens, attention, weights, layers, pixels, swaps, injections.
        """
        return (
            *self.tokens,
            *self.attention,
            *self.weights,
            *self.layers,
            *self.pixels,
            *self.swaps,
            *self.injections,
        )
