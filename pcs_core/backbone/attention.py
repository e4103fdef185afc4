"""The chain of edits on one attention site: qkv -> extra -> bias -> probs -> out.

The chain is a plain object: a module would add keys to the network's state dict. It is topology
neutral; a family's processor projects, calls the chain, and projects out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from pcs_core.data.edits import AttnEdit, AttnState, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from pcs_core.backbone.context import Context


class AttentionChain:
    """Edits of one site by stage, bound to a context. ``index`` counts the sites of its kind."""

    def __init__(
        self, site: Site, edits: Sequence[AttnEdit], context: Context, index: int = 0
    ) -> None:
        self.site, self.context = site, context
        self.index = index
        self.stages: dict[str, list[AttnEdit]] = {stage: [] for stage in AttnEdit.STAGES}
        for edit in edits:
            self.stages[edit.stage()].append(edit)

    def text(self, text: Tensor) -> Tensor:
        """Return what a cross-attention site reads: its own layer's text where there is one."""
        cond = self.context.cond
        if cond is None or cond.layered is None or self.site.kind != "cross":
            return text
        own = cond.layered[:, self.index].to(text)
        return own.repeat_interleave(text.shape[0] // own.shape[0], dim=0)

    def run(self, state: AttnState) -> Tensor:
        """Return the attention output [b n hd] before the output projection."""
        context = self.context
        on = not context.off and context.cond is not None
        if on and state.project is not None and self.stages["out"]:
            x, queries, project = state.x, state.q, state.project
            state.attend = lambda text: self._attend(x, queries, project, text)
        state = self._apply("qkv", state, on)
        if state.norm is not None:
            state.q, state.k = state.norm(state.q, state.k)
        for stage in ("extra", "bias"):
            state = self._apply(stage, state, on)
        explicit = (on and bool(self.stages["probs"])) or context.recorded(
            self.site.name, self.site.kind
        )
        q, k, v = (_split(t, state.heads) for t in (state.q, state.k, state.v))
        if explicit:
            logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            if state.bias is not None:
                logits = logits + state.bias
            state.probs = logits.softmax(dim=-1)
            state = self._apply("probs", state, on)
            assert state.probs is not None
            if context.recorded(self.site.name, self.site.kind):
                # assigned, never appended: a checkpointed forward runs twice
                context.tape[self.site.name] = state.probs
            attended = state.probs.to(v.dtype) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=state.bias)
        state.out = attended.transpose(1, 2).reshape(
            state.q.shape[0], -1, v.shape[-1] * state.heads
        )
        state = self._apply("out", state, on)
        assert state.out is not None
        return state.out

    def _attend(
        self,
        x: Tensor,
        q: Tensor,
        project: Callable[[Tensor], tuple[Tensor, Tensor]],
        text: Tensor,
    ) -> Tensor:
        """Return what the queries of ``x`` read from ``text``: see :class:`AttnState`."""
        text = (text[:, self.index] if text.dim() == 4 else text).to(x)
        k, v = project(text)
        state = AttnState(self.site, x, text, self.site.heads, q, k, v)
        state = self._apply("qkv", state, True)
        q, k, v = (_split(t, state.heads) for t in (state.q, state.k, state.v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def _apply(self, stage: str, state: AttnState, on: bool) -> AttnState:
        if on:
            for edit in self.stages[stage]:
                if self.context.acts(edit):
                    assert self.context.cond is not None
                    cond = self.context.cond.spread(state.x.shape[0])
                    state = getattr(edit, stage)(state, cond)
        return state


def _split(x: Tensor, heads: int) -> Tensor:
    b, n, c = x.shape
    return x.view(b, n, heads, c // heads).transpose(1, 2)


def gather(stacked: Tensor, subject: Tensor | None) -> Tensor:
    """Return the rows' own parameters [b ...] from ``stacked`` [S ...]; a single subject broadcasts.

    Raises
    ------
    ValueError
        Several subjects, and no subject index in the conditioning.
    """
    if stacked.shape[0] == 1:
        return stacked
    if subject is None:
        raise ValueError("parameters of several subjects need the rows' subject index")
    return stacked[subject]


def batched_linear(x: Tensor, weight: Tensor, subject: Tensor | None) -> Tensor:
    """Return x W^T for x [b n in] and stacked ``weight`` [S out in], each row with its subject's W."""
    if weight.shape[0] == 1:
        return F.linear(x, weight[0])
    own = gather(weight, subject)
    if own.shape[0] != x.shape[0]:  # frames or views folded into the batch
        own = own.repeat_interleave(x.shape[0] // own.shape[0], dim=0)
    return torch.bmm(x, own.transpose(1, 2))
