"""A branch of low rank beside each head of attention (COMCAT, arXiv:2305.17235, section 3).

What a head computes from is the products Wq Wk^T, which decides where it looks, and Wv Wo, which decides what
it brings: both get an addend of rank r, where LoRA updates each of the four matrices by itself. Read from the
authors' `comcat_attention.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.backbone import batched_linear
from pcs_core.data import AttnEdit, Fusion, WeightEdit, Words
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import AttnState, Conditioning, Features, Run, Site

SCALE = "low_rank_heads.scale"
"""Strength: alpha, by which queries, keys, values and outputs of the branch are each multiplied."""


class Handed:
    """What a layer's attention hands to its output layer, in one call of the network."""

    def __init__(self) -> None:
        self.values: Tensor | None = None

    def take(self) -> Tensor:
        """Return the values, and keep them no longer."""
        assert self.values is not None  # the output layer follows its attention
        values, self.values = self.values, None
        return values


class Looks(AttnEdit):
    """Queries and keys [S r*heads c] of the branch, whose products are added to the logits."""

    def __init__(self, site: Site, q: Tensor, k: Tensor, width: int) -> None:
        super().__init__(site, stacked=True)
        self.q, self.k = nn.Parameter(q), nn.Parameter(k)
        self.width = width

    def bias(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Add to the logits [b h n m], on the scale of the head's own."""
        q = _heads(batched_linear(state.x, self.q, cond.subject), state.heads)
        k = _heads(batched_linear(state.context, self.k, cond.subject), state.heads)
        logits = _alpha(cond, q, 2) * (q @ k.transpose(-1, -2)) * self.width**-0.5
        further = state.k.shape[1] - logits.shape[-1]  # what others appended is looked at as before
        logits = F.pad(logits, (0, further))
        state.bias = logits if state.bias is None else state.bias + logits
        return state


class Brings(AttnEdit):
    """Values [S r*heads c] of the branch, attended as the head attends."""

    def __init__(self, site: Site, v: Tensor, handed: Handed) -> None:
        super().__init__(site, stacked=True)
        self.v = nn.Parameter(v)
        self.handed = handed

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Attend to the branch's values, for the output layer."""
        v = _heads(batched_linear(state.context, self.v, cond.subject), state.heads)
        v = F.pad(v, (0, 0, 0, state.k.shape[1] - v.shape[2]))
        if state.probs is not None:
            read = state.probs.to(v.dtype) @ v
        else:
            q, k = _heads(state.q, state.heads), _heads(state.k, state.heads)
            read = F.scaled_dot_product_attention(q, k, v, attn_mask=state.bias)
        self.handed.values = read.transpose(1, 2).flatten(2)
        return state


class Outputs(WeightEdit):
    """The branch's outputs [S c r*heads], added behind the attention's own output layer."""

    def __init__(self, site: Site, out: Tensor, handed: Handed) -> None:
        super().__init__(site, stacked=True)
        self.out = nn.Parameter(out)
        self.handed = handed

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return what the branch brings [b n c]."""
        assert cond is not None
        added = batched_linear(self.handed.take(), self.out, cond.subject)
        return _alpha(cond, added, 2) * added


def _heads(x: Tensor, heads: int) -> Tensor:
    """Return x [b n h*d] as [b h n d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _alpha(cond: Conditioning, like: Tensor, power: int) -> Tensor:
    """Return the strength to a power, for the rows of ``like`` [b ...]."""
    scale = cond.extra.get(SCALE)
    if scale is None:
        return like.new_ones(())
    scale = scale.to(like).repeat_interleave(len(like) // len(scale))
    return scale.pow(power).view(-1, *[1] * (like.dim() - 1))


class LowRankHeads(Technique):
    """Add a branch of low rank to each attention head: to its logits, and to what it brings."""

    id = "attention.low_rank_heads"
    rowwise = True
    catalogue = ("lora",)
    neutral = {"scale": 0.0}
    starts_away = "its four matrices start as linear layers do, and none of them at zero"

    rank: Annotated[int, Field(ge=1, le=64)] = 2
    """Rank r of each head's branch."""
    sites: str = "self|cross"
    """Which attention layers of the denoiser have one."""
    scale: Annotated[float, Field(ge=0.0, le=4.0)] = 1.0
    """Alpha, in a fit and (as the strength ``low_rank_heads.scale``) when drawing: queries, keys, values and
    outputs are each multiplied by it. The authors' example draws with 0.8. A fit at 0 has no branches."""

    def words(self) -> Words:
        """Return the strength that it writes."""
        return Words(writes=(f"strength:{SCALE}",))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Make the branches: every element uniform up to the inverse root of its inputs."""
        if self.scale == 0.0:
            return None
        chosen = [s for one in self.sites.split("|") for s in run.sites(one)]
        sites = [site for site in chosen if site.kind in ("self", "cross")]
        if not sites:
            raise CapabilityError(f"{self.id}: no self- or cross-attention matches {self.sites!r}")
        layers = run.sites("attention.*.out")
        edits: list[AttnEdit | WeightEdit] = []
        for site in sites:
            layer = next(one for one in layers if one.name.startswith(f"{site.name}."))
            inner, handed = self.rank * site.heads, Handed()
            width = run.projection(site, "q").weight.shape[0] // site.heads

            def start(part: str, outputs: int, inputs: int, name: str = site.name) -> Tensor:
                rngs = (
                    run.init_rng(s, f"{self.id}/{name}/{part}") for s in range(features.subjects)
                )
                drawn = [2 * torch.rand(outputs, inputs, generator=r) - 1 for r in rngs]
                return torch.stack(drawn) * inputs**-0.5

            reads = site.width if site.kind == "self" else site.context
            q, k = start("q", inner, site.width), start("k", inner, reads)
            edits += [
                Looks(site, q, k, width),
                Brings(site, start("v", inner, reads), handed),
                Outputs(layer, start("out", site.width, inner), handed),
            ]
        return Fusion(edits=tuple(edits), strengths={SCALE: self.scale})
