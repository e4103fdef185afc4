"""Attention to image tokens beside the text (IP-Adapter, arXiv:2308.06721, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_attention.image_tokens import LinearTokens, Perceiver, Resampler
from pcs_core import Technique, hookimpl
from pcs_core.data import AttnEdit, AttnState, Fusion, Words
from pcs_core.errors import RecipeError

if TYPE_CHECKING:
    from pcs_core.data import Conditioning, Features, Run, Site, StreamEdit


class ParallelAttention(AttnEdit):
    """``out + scale * Attn(Q, K_image, V_image)``, with keys and values of its own.

    Where text and picture share their attention, the picture's queries alone read the tokens.
    """

    kinds = ("self", "cross", "temporal", "joint")

    def __init__(
        self, site: Site, stream: str, key: nn.Linear, value: nn.Linear, quiet: bool = False
    ) -> None:
        super().__init__(site)
        self.source = stream
        self.to_k = nn.Linear(site.context, site.width, bias=False)
        self.to_v = nn.Linear(site.context, site.width, bias=False)
        with torch.no_grad():  # as the text's own, which the released weights started from
            self.to_k.weight.copy_(key.weight)
            if quiet:
                self.to_v.weight.zero_()
            else:
                self.to_v.weight.copy_(value.weight)

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        """Add attention to the stream, [b n hd], before the output projection."""
        tokens = cond.streams.get(self.source)
        if tokens is None:
            return state
        tokens = tokens.to(self.to_k.weight.dtype)
        joint = state.site.kind == "joint"
        queries = state.q[:, : state.x.shape[1]] if joint else state.q
        q, k, v = (
            t.view(t.shape[0], t.shape[1], state.heads, -1).transpose(1, 2)
            for t in (queries.to(tokens.dtype), self.to_k(tokens), self.to_v(tokens))
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        if joint:  # the text's rows stand behind the picture's
            seen = F.pad(seen, (0, 0, 0, state.context.shape[1]))
        scale = cond.extra[f"{self.source}.scale"].view(-1, 1, 1)
        assert state.out is not None
        state.out = state.out + (scale * seen).to(state.out.dtype)
        return state


class ParallelAdapter(Technique):
    """Project a feature to image tokens, and let cross-attention read them beside the text."""

    id = "attention.parallel_adapter"
    catalogue = ("image-adapter",)
    neutral = {"strength": 0.0}
    starts_away = "its projections are pre-trained; before that they are random"
    later = ("head_width", "inner")
    tiny = {"tokens": 2, "depth": 1, "heads": 4, "inner": 16, "head_width": 4}
    tiny_beside = {"tokens.rare": {"identifier": ""}, "encoders.image": {}}
    stacks_subjects = False

    key: str = "image"
    """The feature it reads, [slots d] or [slots t d], and the name of its stream."""
    tokens: Annotated[int, Field(ge=1)] = 4
    """Image tokens: per vector for the linear projector, in all for the others."""
    projector: Literal["linear", "perceiver", "resampler"] = "linear"
    """How features become tokens: one linear map and a LayerNorm (IP-Adapter); the resampler that IP-Adapter
    Plus and InstantID were released with, of a width of its own; or a smaller one at the text's width."""
    depth: Annotated[int, Field(ge=1)] = 4
    """Layers of perceiver or resampler."""
    heads: Annotated[int, Field(ge=1)] = 20
    """Attention heads of perceiver or resampler; those of the resampler divide the text's width."""
    head_width: Annotated[int, Field(ge=1)] = 64
    """Channels of a head of the perceiver."""
    inner: Annotated[int, Field(ge=1)] = 1280
    """Channels of the perceiver's queries, before they are brought to the text's width."""
    start: Literal["text", "zero"] = "text"
    """Where the values' projection starts: as the text's own, or at zero, so that training begins from the
    backbone as it is and need not first unlearn what untrained tokens do to it."""
    sites: str = "cross"
    """Which attention sites read the tokens."""
    strength: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """Factor of the image attention; sampling may set another under ``"<key>.scale"``."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(
            reads=(f"feature:{self.key}",),
            writes=(f"stream:{self.key}", f"strength:{self.key}.scale"),
        )

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Make the projector and one attention of its own per site."""
        feature = features.get(self.key, self.id).shape[-1]
        sites = run.sites(self.sites)
        if not sites:
            raise RecipeError(f"{self.id}: no attention site matches {self.sites!r}")
        width = sites[0].context
        with run.seeded(f"{self.id}/{self.key}"):
            stream = self._projector(feature, width)
            edits = tuple(
                ParallelAttention(
                    site,
                    self.key,
                    run.projection(site, "k"),
                    run.projection(site, "v"),
                    self.start == "zero",
                )
                for site in sites
            )
        return Fusion(edits=(stream, *edits), strengths={f"{self.key}.scale": self.strength})

    def _projector(self, feature: int, width: int) -> StreamEdit:
        """Return what makes tokens of the text's ``width`` from features of ``feature`` channels."""
        if self.projector == "linear":
            return LinearTokens(self.key, feature, width, self.tokens)
        if self.projector == "perceiver":
            return Perceiver(
                self.key,
                feature,
                width,
                self.tokens,
                inner=self.inner,
                depth=self.depth,
                heads=self.heads,
                head_width=self.head_width,
            )
        if width % self.heads:
            raise RecipeError(
                f"{self.id}: {self.heads} heads do not divide the text's width {width}: set heads to a "
                "divisor, or projector to 'perceiver', which has a width of its own"
            )
        return Resampler(self.key, feature, width, self.tokens, self.depth, self.heads)
