"""The processors of attention: plain objects that project, run the chain, project out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import AttnState

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.backbone import AttentionChain


class ChainProcessor:
    """An attention processor in diffusers' calling convention. Not a module: adds no keys."""

    def __init__(self, chain: AttentionChain, before: Any = None) -> None:
        self.chain = chain

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend. Shapes as in diffusers: [b n c] or [b c h w] in, the same out."""
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        shape = hidden_states.shape
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if encoder_hidden_states is not None:
            encoder_hidden_states = self.chain.text(encoder_hidden_states)
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, source.shape[1], shape[0])
            attention_mask = attention_mask.view(shape[0], attn.heads, -1, attention_mask.shape[-1])
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
            if encoder_hidden_states is None:
                source = hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            source = attn.norm_encoder_hidden_states(source)
        # projections are called as modules: on a wrapped layer `.weight` is silently the base's
        state = AttnState(
            site=self.chain.site,
            x=hidden_states,
            context=source,
            heads=attn.heads,
            q=attn.to_q(hidden_states),
            k=attn.to_k(source),
            v=attn.to_v(source),
            bias=attention_mask,
            project=lambda text: (attn.to_k(text), attn.to_v(text)),
        )
        out = self.chain.run(state).to(hidden_states.dtype)
        out = attn.to_out[1](attn.to_out[0](out))
        if len(shape) == 4:
            out = out.transpose(-1, -2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


class JointChainProcessor:
    """As :class:`ChainProcessor`, where text and picture share their attention (SD 3's blocks).

    Queries, keys and values of the picture's tokens stand in front, the text's behind. Without text it
    is the self-attention that SD 3.5 has beside.
    """

    def __init__(self, chain: AttentionChain, before: Any = None) -> None:
        self.chain = chain

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend: picture [b n c] and text [b m c] in, the same out."""
        text, count = encoder_hidden_states, hidden_states.shape[1]
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        if text is not None:
            q = torch.cat([q, attn.add_q_proj(text)], dim=1)
            k = torch.cat([k, attn.add_k_proj(text)], dim=1)
            v = torch.cat([v, attn.add_v_proj(text)], dim=1)

        def norm(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            return (
                each_head(q, count, attn.heads, attn.norm_q, attn.norm_added_q),
                each_head(k, count, attn.heads, attn.norm_k, attn.norm_added_k),
            )

        state = AttnState(
            site=self.chain.site,
            x=hidden_states,
            context=hidden_states if text is None else text,
            heads=attn.heads,
            q=q,
            k=k,
            v=v,
            norm=None if attn.norm_q is None else norm,
        )
        out = self.chain.run(state).to(hidden_states.dtype)
        picture = attn.to_out[1](attn.to_out[0](out[:, :count]))
        if text is None:
            return picture  # type: ignore[no-any-return]
        said = out[:, count:]
        return picture, said if attn.context_pre_only else attn.to_add_out(said)


def each_head(x: Tensor, count: int, heads: int, first: Any, rest: Any) -> Tensor:
    """Return x [b n hd] normalised per head: the first ``count`` tokens by one norm, others by another."""
    b, n, width = x.shape
    split = x.view(b, n, heads, width // heads)
    parts = [first(split[:, :count]), rest(split[:, count:])] if n > count else [first(split)]
    return torch.cat(parts, dim=1).flatten(2)


def bind(
    network: nn.Module,
    chains: Mapping[str, AttentionChain],
    processor: Callable[[AttentionChain, Any], Any],
) -> Callable[[], None]:
    """Put a chain on each named attention module of a network; return what puts the old ones back.

    ``processor`` makes what is put there, of the chain and of what was there.
    """
    before: dict[str, Any] = {name: network.get_submodule(name).processor for name in chains}
    for name, chain in chains.items():
        network.get_submodule(name).processor = processor(chain, before[name])

    def undo() -> None:
        for name, original in before.items():
            network.get_submodule(name).processor = original

    return undo
