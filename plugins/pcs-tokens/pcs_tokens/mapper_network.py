"""The network of a computed word: Fourier features, anchors, two hidden layers, nested dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from pcs_core.backbone import batched_linear, gather

if TYPE_CHECKING:
    from torch import Generator, Tensor


class StackedLinear(nn.Module):
    """A linear layer for each subject: weight [S out in], bias [S out]."""

    def __init__(self, rngs: Sequence[Generator], inside: int, outside: int) -> None:
        super().__init__()
        bound = inside**-0.5

        def drawn(*shape: int) -> Tensor:
            return torch.stack([(2 * torch.rand(*shape, generator=r) - 1) * bound for r in rngs])

        self.weight = nn.Parameter(drawn(outside, inside))
        self.bias = nn.Parameter(drawn(outside))

    def forward(self, x: Tensor, subject: Tensor) -> Tensor:
        """Return [b n out] of x [b n in], each row by its subject's layer."""
        return batched_linear(x, self.weight, subject) + gather(self.bias, subject)[:, None]


class StackedNorm(nn.Module):
    """A layer norm for each subject: scale and shift [S width]."""

    def __init__(self, subjects: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(subjects, width))
        self.shift = nn.Parameter(torch.zeros(subjects, width))

    def forward(self, x: Tensor, subject: Tensor) -> Tensor:
        """Return [b n width]."""
        plain = F.layer_norm(x, x.shape[-1:])
        return plain * gather(self.scale, subject)[:, None] + gather(self.shift, subject)[:, None]


class Mapper(nn.Module):
    """M(t, l): a vector [width] and, if ``bypass``, another [bypass], for subjects of one stack."""

    frequencies: Tensor

    def __init__(
        self,
        rngs: Sequence[Generator],
        *,
        layers: int,
        width: int,
        bypass: int,
        frequencies: int,
        sigmas: tuple[float, float],
        anchors: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.hidden, self.dropout = hidden, dropout
        drawn = torch.stack([torch.randn(frequencies, 2, generator=r) for r in rngs])
        # the sampling run has another seed: what was drawn is stored
        self.register_buffer("frequencies", drawn * torch.tensor(sigmas))
        # 0, 100, ..., 900 of 1000 for ten anchors, as the authors' `positional_encoding.py` has them
        levels = torch.arange(anchors, dtype=torch.float32) / anchors
        grid = torch.cartesian_prod(levels, torch.arange(layers, dtype=torch.float32))
        every = torch.arange(len(rngs))
        start = self.encode(
            grid[:, 0].expand(len(rngs), -1), grid[:, 1].expand(len(rngs), -1), every
        )
        self.anchors = nn.Parameter(start)
        self.first = StackedLinear(rngs, anchors * layers, hidden)
        self.first_norm = StackedNorm(len(rngs), hidden)
        self.second = StackedLinear(rngs, hidden, hidden)
        self.second_norm = StackedNorm(len(rngs), hidden)
        self.head = StackedLinear(rngs, hidden, width)
        self.bypass = StackedLinear(rngs, hidden, bypass) if bypass else None

    def encode(self, time: Tensor, layer: Tensor, subject: Tensor) -> Tensor:
        """Return Fourier features [b n 2f] of length 1 of times and layers [b n]."""
        place = torch.stack([1000 * time, layer], dim=-1)
        turned = batched_linear(place, self.frequencies, subject)  # type: ignore[arg-type]
        return torch.cat([turned.sin(), turned.cos()], dim=-1) * turned.shape[-1] ** -0.5

    def forward(
        self, time: Tensor, layers: Tensor, subject: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the word [b n width] and the bypass [b n bypass] at times [b] and layers [n]."""
        b, n = len(time), len(layers)
        features = self.encode(
            time.float()[:, None].expand(b, n), layers.float().expand(b, n), subject
        )
        x = batched_linear(features, self.anchors, subject)
        x = F.leaky_relu(self.first_norm(self.first(x, subject), subject))
        x = F.leaky_relu(self.second_norm(self.second(x, subject), subject))
        if self.training and self.dropout:
            x = x * self.kept(time, layers, subject)
        return self.head(x, subject), None if self.bypass is None else self.bypass(x, subject)

    def kept(self, time: Tensor, layers: Tensor, subject: Tensor) -> Tensor:
        """Return the mask [b n hidden] of nested dropout: all ones, or ones in front of a random unit.

        The unit is any of them, the first among these, which leaves nothing but the head's bias.

        The draw is a hash of the noise levels of the subject's rows in this step, so that word and
        bypass share it, a resumed fit repeats it, and no other subject changes it.
        """
        hashed = scatter(time.double() * 1000)
        total = hashed.new_zeros(int(subject.max()) + 1).index_add(0, subject, hashed)[subject]
        key = 3.7 * hashed[:, None] + 5.3 * total[:, None] + 0.71 * layers
        drops, where = scatter(key) < self.dropout, scatter(key + 17.3)
        last = torch.where(drops, (where * self.hidden).floor(), float(self.hidden))
        units = torch.arange(self.hidden, device=time.device)
        return (units < last[..., None]).float()


def scatter(x: Tensor) -> Tensor:
    """Return numbers in [0, 1) that look unrelated to ``x``: the fraction of a fast sine."""
    return ((x * 12.9898 + 4.1414).sin() * 43758.5453).frac().abs()
