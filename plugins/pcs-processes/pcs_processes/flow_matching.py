"""Noise of rectified flow: conversions between x0 and the flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from pcs_core.data.steps import Level, squared_error

if TYPE_CHECKING:
    from torch import Generator, Tensor


class FlowMatching:
    """Rectified flow: x = (1 - sigma) x0 + sigma noise, and v = noise - x0 (SD 3, arXiv:2403.03206, 2).

    Training time i of ``times`` has sigma = shift u / (1 + (shift - 1) u) with u = (i + 1) / times
    (section 5.3.2); the network is told sigma * times. Times are drawn logit-normal (section 3.1).
    """

    continuous: ClassVar[bool] = True
    prediction: ClassVar[str] = "flow"

    def __init__(self, shift: float = 1.0, times: int = 1000) -> None:
        self.shift, self.times = shift, times

    def level(self, time: Tensor) -> Level:
        """Return the level of integer training times [b]."""
        even = (time.float() + 1) / self.times
        return self.at_sigma(self.shift * even / (1 + (self.shift - 1) * even))

    def at_sigma(self, sigma: Tensor) -> Level:
        """Return the level of shares of noise ``sigma`` [b] in (0, 1]."""
        return Level(1 - sigma, sigma, sigma * self.times)

    def fraction(self, level: Level) -> Tensor:
        """Return the noise level of each row [b] in [0, 1], 1 = pure noise."""
        return level.time.float() / self.times

    def at(self, fraction: Tensor) -> Tensor:
        """Return the training times of noise levels [b] in [0, 1]."""
        sigma = fraction.clamp(0, 1)
        even = sigma / (self.shift - (self.shift - 1) * sigma)
        return (even * self.times - 1).round().long().clamp(0, self.times - 1)

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        """Return ``count`` training times, logit-normal, on the generator's device."""
        even = torch.randn((count,), generator=rng, device=rng.device).sigmoid()
        return (even * self.times).long().clamp(0, self.times - 1)

    def corrupt(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """Return (1 - sigma) x0 + sigma noise, [b c h w]."""
        alpha, sigma = level.like(x0)
        return (alpha * x0.float() + sigma * noise.float()).to(x0.dtype)

    def target(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """Return what the network should answer for these latents, fp32: noise - x0."""
        return noise.float() - x0.float()

    def error(self, output: Tensor, target: Tensor, noisy: Tensor) -> Tensor:
        """Return the squared error per element [b c h w], fp32."""
        return squared_error(output, target)

    def denoised(self, output: Tensor, noisy: Tensor, level: Level) -> Tensor:
        """Return x0 in fp32 from the network's output."""
        _, sigma = level.like(noisy)
        return noisy.float() - sigma * output.float()

    def native(self, x0: Tensor, noisy: Tensor, level: Level) -> Tensor:
        """Return the flow in fp32 from x0: what the scheduler is fed."""
        _, sigma = level.like(noisy)
        return (noisy.float() - x0.float()) / sigma
