"""Self-attention of CLIP's text encoders with a chain of edits in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import AttnState

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.backbone import AttentionChain


class TextChain:
    """Stands in for the ``forward`` of transformers' ``CLIPAttention``. Not a module: adds no keys."""

    def __init__(self, module: Any, chain: AttentionChain) -> None:
        self.module, self.chain = module, chain

    def __call__(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **others: Any
    ) -> tuple[Tensor, None]:
        """Attend: [b n c] in, the same out. A text's tokens read those in front of them, as ever."""
        module, x = self.module, hidden_states
        state = AttnState(
            site=self.chain.site,
            x=x,
            context=x,
            heads=module.num_heads,
            q=module.q_proj(x),
            k=module.k_proj(x),
            v=module.v_proj(x),
            bias=added_mask(attention_mask, x, causal=bool(others.get("is_causal", False))),
        )
        return module.out_proj(self.chain.run(state).to(x.dtype)), None


def added_mask(mask: Tensor | None, x: Tensor, *, causal: bool) -> Tensor | None:
    """Return what is added to the logits [b|1 1 n n] of tokens ``x`` [b n c]: 0, or -inf where none may read.

    ``mask`` is added already, or says which tokens are read; where there is none, ``causal`` says.
    """
    if mask is not None and mask.dtype != torch.bool:
        return mask
    if mask is None:
        if not causal:
            return None
        n = x.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()[None, None]
    return torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -torch.inf)


def bind_text(encoder: nn.Module, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
    """Put a chain on each named attention module of text encoders; return what takes them off."""
    before: dict[nn.Module, Any] = {}
    for name, chain in chains.items():
        module = encoder.get_submodule(name)
        before[module] = vars(module).get("forward")
        # object.__setattr__: nn.Module would look for parameters and modules in it
        object.__setattr__(module, "forward", TextChain(module, chain))

    def undo() -> None:
        for module, forward in before.items():
            if forward is None:
                object.__delattr__(module, "forward")
            else:
                object.__setattr__(module, "forward", forward)

    return undo
