"""Attention to image tokens that is added behind a whole block: the adapters of FLUX.

From diffusers' ``FluxIPAdapterAttnProcessor`` and ``FluxTransformerBlock`` (XLabs' x-flux,
``IPDoubleStreamBlockProcessor``): the picture's queries, normalised and not turned by their places, read keys
and values of the tokens, each with a bias; what they read is added behind attention and feed-forward layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from pcs_core.data import AttnEdit, AttnState, BlockEdit
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pcs_core.data import Conditioning, Edit, Site


class TokensRead(AttnEdit):
    """What a block's queries read of the tokens ``stream`` of ``width`` channels; it is added elsewhere."""

    kinds = ("joint",)

    def __init__(self, site: Site, stream: str, width: int) -> None:
        super().__init__(site)
        self.source = stream
        self.to_k, self.to_v = nn.Linear(width, site.width), nn.Linear(width, site.width)
        self.read: Tensor | None = None

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Keep what is read, [b n hd] of the picture's queries, and change nothing."""
        self.read = None
        tokens = cond.streams.get(self.source)
        if tokens is None:
            return state
        tokens = tokens.to(self.to_k.weight.dtype)
        queries = state.q if state.unplaced is None else state.unplaced
        q, k, v = (
            t.unflatten(2, (state.heads, -1)).transpose(1, 2)
            for t in (
                queries[:, : state.x.shape[1]].to(tokens.dtype),
                self.to_k(tokens),
                self.to_v(tokens),
            )
        )
        self.read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return state


class AddedBehind(BlockEdit):
    """Adds behind a block what its queries read, times the strength ``"<stream>.scale"``."""

    def __init__(self, site: Site, reader: TokensRead) -> None:
        super().__init__(site)
        self._reader = [reader]  # not a module of this one: its tensors are its own

    def add(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Return what was read in this pass of the block, [b n c]."""
        (reader,) = self._reader
        read, reader.read = reader.read, None
        if read is None:
            return torch.zeros_like(x)
        scale = cond.extra[f"{reader.source}.scale"].view(-1, 1, 1)
        return (scale * read).to(x.dtype)


def behind_blocks(
    sites: Sequence[Site], places: Sequence[Site], stream: str, width: int, owner: str
) -> tuple[Edit, ...]:
    """Return a reader at each attention site and what adds it behind the site's block.

    Raises
    ------
    CapabilityError
        A block gives no place behind it.
    """
    edits: list[Edit] = []
    for site in sites:
        place = next((p for p in places if site.name.startswith(f"{p.layer}.")), None)
        if place is None:
            raise CapabilityError(
                f"{owner}: there is no place behind the block of {site}, where its tokens would be added"
            )
        reader = TokensRead(site, stream, width)
        edits += [reader, AddedBehind(place, reader)]
    return tuple(edits)
