"""Attention edits, and the chain of those on one site: qkv -> extra -> bias -> probs -> out.

The chain is a plain object: a module would add keys to the network's state dict. It is topology
neutral; a family's processor projects, calls the chain, and projects out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F

from pcs_core.edits.edit import Edit
from pcs_core.edits.site import Site
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.attach import Attachment
    from pcs_core.backbone.context import Context
    from pcs_core.data.conditioning import Conditioning

ATTENTION = ("self", "cross", "joint", "temporal")
"""Kinds of attention sites."""


@dataclass(slots=True)
class AttnState:
    """What an attention stage sees. Stages return a (changed) state.

    ``x`` [b n c] queries' input, ``context`` [b m d] keys' input; ``q`` [b n hd], ``k``, ``v``
    [b m hd] after projection, heads not split; ``bias`` [b|1 h|1 n m] added to the logits or None;
    ``probs`` [b h n m] only at the ``probs`` stage; ``out`` [b n hd] before the output projection.
    At a joint site ``x`` and ``context`` are the picture's and the text's tokens, and q, k, v and out
    [b n+m hd] hold both, the picture's first; k and v of the text are those rows behind.
    ``norm`` is what the network does to q and k after the stage "qkv", or None.
    ``project`` gives keys and values of a context, ``attend`` [b n hd] what the same queries read from
    another text [b m d] (or [b sites m d]: this layer's), edits of stage "qkv" in force. ``unplaced`` is q
    as it was before the network turned it by its places, or None where none is turned.
    """

    site: Site
    x: Tensor
    context: Tensor
    heads: int
    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None = None
    probs: Tensor | None = None
    out: Tensor | None = None
    project: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    attend: Callable[[Tensor], Tensor] | None = None
    norm: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    unplaced: Tensor | None = None


class AttnEdit(Edit):
    """An edit of one attention site: qkv -> extra -> bias -> probs -> out."""

    STAGES = ("qkv", "extra", "bias", "probs", "out")
    LISTED, BOUND = 10, 40
    kinds: ClassVar[tuple[str, ...]] = ("self", "cross", "temporal")
    """Kinds of sites it can act on. One that knows joint sites (see :class:`AttnState`) adds "joint"."""

    def __init__(self, site: Site, **options: object) -> None:
        super().__init__(site.name, **options)  # type: ignore[arg-type]
        self.site, self.part = site, site.part

    @classmethod
    def bind(cls, edits: Sequence[AttnEdit], net: Attachment) -> None:
        """Put a chain on each attention site of the denoiser: one without edits can still record.

        Of the text encoder's sites those with edits alone get one.

        Raises
        ------
        CapabilityError
            An edit is for a site of another kind of attention.
        """
        by_site: dict[str, list[AttnEdit]] = {}
        for edit in edits:
            if edit.site.kind not in edit.kinds:
                raise CapabilityError(
                    f"{edit.owner or type(edit).__name__!r} cannot act on {edit.site}: the attention "
                    f"there is {edit.site.kind}, and its edit acts on {', '.join(edit.kinds)} attention"
                )
            by_site.setdefault(str(edit.site), []).append(edit)
        counted: dict[str, int] = {}
        chains, of_text = {}, {}
        for site in net.backbone.sites:
            here = by_site.get(str(site), ())
            if site.part == "denoiser" and site.kind in ATTENTION:
                index = counted[site.kind] = counted.get(site.kind, -1) + 1
                chains[site.name] = AttentionChain(site, here, net.context, index)
            elif here:
                of_text[site.name] = AttentionChain(site, here, net.context)
        net.undo(net.backbone.bind_attention(chains))
        if of_text:
            net.undo(net.backbone.bind_text_attention(of_text))

    def exclusive(self) -> Iterable[tuple[str, str]]:
        """Return what it declares in ``claims``: "probs" or "out", to rewrite and not to add."""
        return [(str(self.site), claim) for claim in self.claims]

    def qkv(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Project differently: change ``state.q``, ``k``, ``v``."""
        return state

    def extra(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Append keys and values."""
        return state

    def bias(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Add to the logits. Stays on the fused path."""
        return state

    def probs(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Record or rewrite the attention maps. Leaves the fused path at this site only."""
        return state

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Add a stream to ``state.out`` before the output projection."""
        return state


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
        layered = cond.layered[:, self.index].to(text)
        return layered.repeat_interleave(text.shape[0] // layered.shape[0], dim=0)

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
