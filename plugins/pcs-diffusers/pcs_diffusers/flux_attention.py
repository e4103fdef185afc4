"""Attention of FLUX's blocks: text and picture together, each head normalised, places told by rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.embeddings import apply_rotary_emb

from pcs_core.data import AttnState
from pcs_diffusers.attention import each_head
from pcs_diffusers.flux_sequence import by_group, spans_of

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
        spans = spans_of(self.chain.context)
        if not acts(self.chain) and (spans is None or len(spans.groups) < 2):
            before: Tensor | tuple[Tensor, Tensor] = self.before(
                attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
            )
            return before
        if encoder_hidden_states is not None:
            return self._of_two(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        text, picture = hidden_states[:, : self.text], hidden_states[:, self.text :]
        q, k, v = (
            turned(by_group(self.chain.context, layer, hidden_states, self.text), self.text)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        norms = (attn.norm_q, attn.norm_k)
        state = self._state(attn, (picture, text), (q, k, v), norms, image_rotary_emb)
        out = self.chain.run(state).to(hidden_states.dtype)
        return turned(out, picture.shape[1])

    def _of_two(
        self, attn: Any, picture: Tensor, text: Tensor, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor]:
        context = self.chain.context
        q, k, v = (
            torch.cat([by_group(context, layer, picture), of_text(text)], dim=1)
            for layer, of_text in (
                (attn.to_q, attn.add_q_proj),
                (attn.to_k, attn.add_k_proj),
                (attn.to_v, attn.add_v_proj),
            )
        )
        norms = (attn.norm_added_q, attn.norm_added_k)
        state = self._state(attn, (picture, text), (q, k, v), norms, rotation)
        out = self.chain.run(state).to(picture.dtype)
        seen, said = out[:, : picture.shape[1]], out[:, picture.shape[1] :]
        return attn.to_out[1](by_group(context, attn.to_out[0], seen)), attn.to_add_out(said)

    def _state(
        self,
        attn: Any,
        inputs: tuple[Tensor, Tensor],
        made: tuple[Tensor, Tensor, Tensor],
        of_text: tuple[Any, Any],
        rotation: Rotation | None,
    ) -> AttnState:
        # what is made of picture and text; the norms of the text's queries and keys
        (picture, text), (q, k, v) = inputs, made
        count, heads = picture.shape[1], attn.heads
        places = None if rotation is None else tuple(turned(r, text.shape[1], 0) for r in rotation)

        def norm(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            q = each_head(q, count, heads, attn.norm_q, of_text[0])
            k = each_head(k, count, heads, attn.norm_k, of_text[1])
            state.unplaced = q
            return _rotated(q, heads, places), _rotated(k, heads, places)

        state = AttnState(self.chain.site, picture, text, heads, q, k, v, norm=norm)
        return state


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
