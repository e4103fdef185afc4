"""Attention of FLUX's blocks: text and picture together, each head normalised, places told by rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.embeddings import apply_rotary_emb

from pcs_core.data import AttnState
from pcs_diffusers.attention import each_head

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import AttentionChain

Rotation = tuple["Tensor", "Tensor"]
"""Cosines and sines of the places [n d], text's first."""


class FluxChainProcessor:
    """An attention processor for blocks of two streams and of one. Not a module: adds no keys.

    ``text``: how many tokens of the text stand in front of the picture's where one stream holds both. Edits
    see the picture's in front, as at every joint site. Where none acts ``before`` runs, so that the network
    computes bit for bit what it computes alone.
    """

    def __init__(self, chain: AttentionChain, before: Any, *, text: int) -> None:
        self.chain, self.before, self.text = chain, before, text

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotation | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend: picture [b n c] and text [b m c] in, the same out; or one stream [b m+n c]."""
        if not acts(self.chain):
            before: Tensor | tuple[Tensor, Tensor] = self.before(
                attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
            )
            return before
        if encoder_hidden_states is not None:
            return self._of_two(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        text, picture = hidden_states[:, : self.text], hidden_states[:, self.text :]
        state = self._state(attn, picture, text, image_rotary_emb, ("to_q", "to_k", "to_v"))
        out = self.chain.run(state).to(hidden_states.dtype)
        return turned(out, picture.shape[1])

    def _of_two(
        self, attn: Any, picture: Tensor, text: Tensor, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor]:
        names = ("add_q_proj", "add_k_proj", "add_v_proj")
        out = self.chain.run(self._state(attn, picture, text, rotation, names)).to(picture.dtype)
        seen, said = out[:, : picture.shape[1]], out[:, picture.shape[1] :]
        return attn.to_out[1](attn.to_out[0](seen)), attn.to_add_out(said)

    def _state(
        self,
        attn: Any,
        picture: Tensor,
        text: Tensor,
        rotation: Rotation | None,
        names: tuple[str, str, str],
    ) -> AttnState:
        """Return what edits see; ``names`` are the layers that make the text's queries, keys and values."""
        count = picture.shape[1]
        norms = ("norm_added_q", "norm_added_k") if names[0] != "to_q" else ("norm_q", "norm_k")
        if names[0] == "to_q":  # one layer for both: it is called once, as an edit of it expects
            both = torch.cat([picture, text], dim=1)
            q, k, v = (getattr(attn, name)(both) for name in names)
        else:
            q, k, v = (
                torch.cat([layer(picture), getattr(attn, name)(text)], dim=1)
                for layer, name in zip((attn.to_q, attn.to_k, attn.to_v), names, strict=True)
            )
        places = None if rotation is None else tuple(turned(r, text.shape[1], 0) for r in rotation)

        def norm(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            heads = attn.heads
            q = each_head(q, count, heads, attn.norm_q, getattr(attn, norms[0]))
            k = each_head(k, count, heads, attn.norm_k, getattr(attn, norms[1]))
            return _rotated(q, heads, places), _rotated(k, heads, places)

        return AttnState(
            site=self.chain.site,
            x=picture,
            context=text,
            heads=attn.heads,
            q=q,
            k=k,
            v=v,
            norm=norm,
        )


def acts(chain: AttentionChain) -> bool:
    """Return whether an edit acts at this site now, or its maps are read."""
    context = chain.context
    if context.recorded(chain.site.name, chain.site.kind):
        return True
    edits = (edit for stage in chain.stages.values() for edit in stage)
    return not context.off and context.cond is not None and any(map(context.acts, edits))


def turned(x: Tensor, count: int, dim: int = 1) -> Tensor:
    """Return ``x`` with its first ``count`` tokens behind the others."""
    first, rest = x.tensor_split([count], dim=dim)
    return torch.cat([rest, first], dim=dim)


def _rotated(x: Tensor, heads: int, places: Any) -> Tensor:
    if places is None:
        return x
    split = x.unflatten(-1, (heads, -1))
    rotated: Tensor = apply_rotary_emb(split, places, sequence_dim=1)
    return rotated.flatten(2)
