"""Features of references as image tokens (IP-Adapter, arXiv:2308.06721, section 3.2; IP-Adapter Plus)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
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
    """Learned queries read the features through a small transformer (IP-Adapter Plus, InstantID)."""

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
