"""Features of references as image tokens (IP-Adapter, arXiv:2308.06721, section 3.2; IP-Adapter Plus)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from pcs_core.data import StreamEdit

if TYPE_CHECKING:
    from torch import Tensor


class LinearTokens(StreamEdit):
    """Image tokens [b slots*tokens d] by one linear map and a LayerNorm (IP-Adapter)."""

    def __init__(self, key: str, feature: int, width: int, tokens: int) -> None:
        super().__init__(key, (key,))
        self.tokens = tokens
        self.project = nn.Linear(feature, tokens * width)
        self.norm = nn.LayerNorm(width)

    def stream(self, *features: Tensor) -> Tensor:
        """Return the tokens of [b slots d] or [b slots t d] features."""
        (feature,) = features
        flat = feature.flatten(1, -2)
        return self.norm(self.project(flat).view(flat.shape[0], flat.shape[1] * self.tokens, -1))


class Resampler(StreamEdit):
    """Learned queries read the features through a decoder of PyTorch's, at the text's width.

    Smaller than the :class:`Perceiver` that IP-Adapter Plus and InstantID were released with, and of no paper.
    """

    def __init__(
        self, key: str, feature: int, width: int, tokens: int, depth: int, heads: int
    ) -> None:
        super().__init__(key, (key,))
        self.queries = nn.Parameter(torch.randn(tokens, width) / width**0.5)
        self.inward = nn.Linear(feature, width)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width,
                heads,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def stream(self, *features: Tensor) -> Tensor:
        """Return the tokens [b tokens d] of [b slots d] or [b slots t d] features."""
        (feature,) = features
        memory = self.inward(feature.flatten(1, -2))
        tokens = self.queries.expand(memory.shape[0], -1, -1)  # not len(): it would close a graph
        for layer in self.layers:
            tokens = layer(tokens, memory)
        return self.norm(tokens)


class PerceiverLayer(nn.Module):
    """Queries attend to features and to themselves, then a feed-forward layer; both are residual.

    No map has a bias. ``inner`` is the width of queries and features, heads x ``head_width`` that of attention.
    """

    def __init__(self, inner: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_features, self.norm_queries = nn.LayerNorm(inner), nn.LayerNorm(inner)
        self.to_q = nn.Linear(inner, heads * head_width, bias=False)
        self.to_k = nn.Linear(inner, heads * head_width, bias=False)
        self.to_v = nn.Linear(inner, heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, inner, bias=False)
        self.feed = nn.Sequential(
            nn.LayerNorm(inner),
            nn.Linear(inner, 4 * inner, bias=False),
            nn.GELU(),
            nn.Linear(4 * inner, inner, bias=False),
        )

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """Return the queries [b n inner] after reading features [b t inner]."""
        asking = self.norm_queries(queries)
        shown = torch.cat([self.norm_features(features), asking], dim=1)
        q, k, v = (
            t.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(asking), self.to_k(shown), self.to_v(shown))
        )
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        queries = queries + self.to_out(read)
        return queries + self.feed(queries)


class Perceiver(StreamEdit):
    """Learned queries read the features at a width of their own, and are then brought to the text's.

    The resampler of IP-Adapter Plus (there 768, 12 heads, depth 4, 16 tokens on SD 1.5) and of InstantID
    (1280, 20 heads, depth 4, 16 tokens), heads of 64 both: ``ip_adapter/resampler.py`` of either repository.
    """

    def __init__(
        self,
        key: str,
        feature: int,
        width: int,
        tokens: int,
        *,
        inner: int,
        depth: int,
        heads: int,
        head_width: int,
    ) -> None:
        super().__init__(key, (key,))
        self.queries = nn.Parameter(torch.randn(tokens, inner) / inner**0.5)
        self.inward, self.outward = nn.Linear(feature, inner), nn.Linear(inner, width)
        self.layers = nn.ModuleList(PerceiverLayer(inner, heads, head_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def stream(self, *features: Tensor) -> Tensor:
        """Return the tokens [b tokens d] of [b slots d] or [b slots t d] features."""
        (feature,) = features
        shown = self.inward(feature.flatten(1, -2))
        queries = self.queries.expand(shown.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, shown)
        tokens: Tensor = self.norm(self.outward(queries))
        return tokens
