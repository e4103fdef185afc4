"""One reference whose self-attention all pictures read (StyleAligned, arXiv:2312.02133, section 3).

Q and K of a picture take mean and spread of the reference's (AdaIN), then attention runs over the
picture's and the reference's keys. One-way: the reference never reads the pictures. LayerNorm works per
token, so of the shared norms only GroupNorm changes anything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import AttnEdit, Fusion, Row, WeightEdit

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pcs_core.data import AttnState, Conditioning, Features, Run, Site

ROLE = "reference"


def reference(cond: Conditioning | None) -> Tensor | None:
    """Return for each batch row the index [b] of its reference, or None where the batch has none."""
    return None if cond is None else cond.extra.get(f"row.{ROLE}")


def is_reference(index: Tensor) -> Tensor:
    """Return [b 1 1], True where a row is itself the reference."""
    return (index == torch.arange(len(index), device=index.device))[:, None, None]


def adain(x: Tensor, style: Tensor) -> Tensor:
    """Return ``x`` [b n c] with mean and spread over its tokens of ``style`` (arXiv:1703.06868)."""
    mean, spread = x.mean(1, keepdim=True), (x.var(1, keepdim=True) + 1e-5).sqrt()
    wanted = (style.var(1, keepdim=True) + 1e-5).sqrt()
    return (x - mean) / spread * wanted + style.mean(1, keepdim=True)


class Aligned(AttnEdit):
    """Gives the queries and keys of every other row the statistics of the reference's."""

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Normalise q and k; the reference's own stay as they are."""
        index = reference(cond)
        if index is not None:
            own = is_reference(index)
            state.q = torch.where(own, state.q, adain(state.q, state.q[index]))
            state.k = torch.where(own, state.k, adain(state.k, state.k[index]))
        return state


class Appended(AttnEdit):
    """Puts the reference's keys and values behind (or in place of) every row's own."""

    def __init__(self, site: Site, replace: bool, **options: Any) -> None:
        super().__init__(site, **options)
        self.replace = replace

    def extra(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Append keys and values; the reference meets its own twice, which changes nothing."""
        index = reference(cond)
        if index is not None:
            k, v = state.k[index], state.v[index]
            state.k = k if self.replace else torch.cat([state.k, k], dim=1)
            state.v = v if self.replace else torch.cat([state.v, v], dim=1)
        return state


class Shifted(AttnEdit):
    """Adds ``shift`` to the logits of the reference's keys, for every other row."""

    def __init__(self, site: Site, shift: float, **options: Any) -> None:
        super().__init__(site, **options)
        self.shift = shift

    def bias(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Add the shift to the second half of the keys."""
        index = reference(cond)
        if index is not None:
            b, n, m = len(index), state.q.shape[1], state.k.shape[1]
            shift = state.q.new_zeros(b, 1, n, m)
            shift[..., m // 2 :] = torch.where(is_reference(index), 0.0, self.shift)[..., None]
            state.bias = shift if state.bias is None else state.bias + shift
        return state


class SharedNorm(WeightEdit):
    """Group statistics of a picture are taken with the reference set beside it."""

    def call(
        self, layer: Callable[[Tensor], Tensor], x: Tensor, cond: Conditioning | None
    ) -> Tensor:
        """Normalise x [b c h w] together with the reference's rows; per-token norms pass."""
        index = reference(cond)
        if index is None or x.dim() != 4:
            return layer(x)
        return layer(torch.cat([x, x[index]], dim=2))[:, :, : x.shape[2]]


class SharedAttention(Technique):
    """Draw a reference beside the pictures and let their self-attention read it. Trains nothing.

    The reference is an inverted picture where a technique of the recipe gives its trajectory, else one
    more picture, drawn from a noise of its own.
    """

    id = "attention.shared"
    catalogue = ("reference-self-attention",)
    neutral = {"share": []}

    share: tuple[Literal["attention", "norm"], ...] = ("attention", "norm")
    """What is shared: keys and values of self-attention, statistics of the group norms."""
    align: bool = True
    """Whether queries and keys take the reference's statistics (AdaIN)."""
    replace: bool = False
    """Whether the reference's keys and values stand in place of a picture's own, not behind them."""
    shift: float | None = None
    """Added to the logits of the reference's keys. None: 0, and log 2 for an inverted picture."""
    sites: str = "self"
    """Which attention sites read the reference."""
    norms: str = "*"
    """Globs of the norm layers that share."""
    prompt: str = "{prompt}"
    """What a drawn reference shows; ``{prompt}`` is the prompt of the first picture."""
    picture_prompt: str = "a picture of a {noun}"
    """What an inverted reference shows: the prompt it was inverted with."""
    trajectory: str = "ddim.trajectory"
    """The feature that holds an inverted reference."""
    start: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Part of the sampling at which the sharing begins, 0 = pure noise."""
    stop: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Part of the sampling at which it ends."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Add the reference's row and bind the sharing edits."""
        if not self.share:
            return None
        inverted = self.trajectory in features.tensors
        options: dict[str, Any] = {"start": self.start, "stop": self.stop, "mode": "sample"}
        attention: list[AttnEdit] = []
        shift = (math.log(2.0) if inverted else 0.0) if self.shift is None else self.shift
        for site in run.sites(self.sites) if "attention" in self.share else ():
            attention += [Aligned(site, **options)] if self.align else []
            attention.append(Appended(site, self.replace, **options))
            attention += [Shifted(site, shift, **options)] if shift and not self.replace else []
        norms = run.sites(self.norms, "norm") if "norm" in self.share else ()
        return Fusion(
            attention=tuple(attention),
            weights=tuple(SharedNorm(site, **options) for site in norms),
            rows=(self._row(features, inverted),),
        )

    def _row(self, features: Features, inverted: bool) -> Row:
        if not inverted:
            return Row(ROLE, prompt=self.prompt)
        concepts = [c for own in features.concepts for c in own]
        prompt = self.picture_prompt.replace("{noun}", concepts[0].noun if concepts else "")
        return Row(ROLE, latents="trajectory", key=self.trajectory, prompt=prompt)
