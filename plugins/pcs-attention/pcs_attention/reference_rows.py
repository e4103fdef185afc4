"""Edits by which all rows of a batch read their reference (StyleAligned, arXiv:2312.02133, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import AttnEdit, WeightEdit

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pcs_core.data import AttnState, Conditioning, Site

ROLE = "reference"
"""Role of the reference's row."""


def reference(cond: Conditioning | None) -> Tensor | None:
    """Return for each batch row the index [b] of its reference, or None where the batch has none."""
    return None if cond is None else cond.extra.get(f"row.{ROLE}")


def is_reference(index: Tensor) -> Tensor:
    """Return [b 1 1], True where a row is itself the reference."""
    return (index == torch.arange(len(index), device=index.device))[:, None, None]


def adain(x: Tensor, style: Tensor) -> Tensor:
    """Return ``x`` [b n c] with mean and spread over its tokens of ``style`` (arXiv:1703.06868)."""
    mean, spread = x.mean(1, keepdim=True), (x.var(1, keepdim=True) + 1e-5).sqrt()
    style_spread = (style.var(1, keepdim=True) + 1e-5).sqrt()
    return (x - mean) / spread * style_spread + style.mean(1, keepdim=True)


class Aligned(AttnEdit):
    """Gives the queries and keys of every other row the statistics of the reference's."""

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Normalise q and k; the reference's own stay as they are."""
        index = reference(cond)
        if index is not None:
            unchanged = is_reference(index)
            state.q = torch.where(unchanged, state.q, adain(state.q, state.q[index]))
            state.k = torch.where(unchanged, state.k, adain(state.k, state.k[index]))
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
