"""The processor of UNet attention: plain objects that project, run the chain, project out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pcs_core.data import AttnState

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.backbone import AttentionChain


class ChainProcessor:
    """An attention processor in diffusers' calling convention. Not a module: adds no keys."""

    def __init__(self, chain: AttentionChain) -> None:
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


def bind(unet: nn.Module, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
    """Put a chain on each named attention module of ``unet``; return what puts the old ones back."""
    before = {name: unet.get_submodule(name).processor for name in chains}
    for name, chain in chains.items():
        unet.get_submodule(name).processor = ChainProcessor(chain)  # type: ignore[assignment]

    def undo() -> None:
        for name, processor in before.items():
            unet.get_submodule(name).processor = processor

    return undo
