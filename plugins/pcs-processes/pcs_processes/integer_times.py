"""What processes of numbered training times have in common: drawing times, and noise levels between 0 and 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.data.steps import Level


class IntegerTimes:
    """Training times 0 to T - 1; the noise level of time t is t / (T - 1)."""

    times: int
    """How many training times T there are."""

    def fraction(self, level: Level) -> Tensor:
        """Return the noise level of each row [b] in [0, 1], 1 = nothing of the picture is left."""
        return level.time.float() / (self.times - 1)

    def at(self, fraction: Tensor) -> Tensor:
        """Return the training times of noise levels [b] in [0, 1]."""
        return (fraction.clamp(0, 1) * (self.times - 1)).round().long()

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        """Return ``count`` training times, uniform, on the generator's device."""
        return torch.randint(0, self.times, (count,), generator=rng, device=rng.device)
