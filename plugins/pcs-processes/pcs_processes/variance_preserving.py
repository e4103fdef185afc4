"""Noise of variance preserving diffusion: conversions between x0, noise, v and the network's own output."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pcs_core.data.steps import Level, squared_error
from pcs_core.errors import CapabilityError
from pcs_processes.integer_times import IntegerTimes

if TYPE_CHECKING:
    from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]


class VariancePreserving(IntegerTimes):
    """Discrete-time diffusion with alpha^2 + sigma^2 = 1 (DDPM, arXiv:2006.11239; v: 2202.00512).

    ``alphas_cumprod`` [T] is alpha^2 per training time. Latents [b c ...] may have any number of axes.
    """

    continuous: ClassVar[bool] = True

    def __init__(self, alphas_cumprod: Tensor, prediction: PredictionType) -> None:
        self.alphas_cumprod = alphas_cumprod.detach().float()
        self.times = int(self.alphas_cumprod.shape[0])
        self.prediction = prediction
        if prediction not in ("epsilon", "v_prediction"):
            raise CapabilityError(
                f"prediction type {prediction!r} is not supported: epsilon and v_prediction are"
            )
        # some schedulers keep 2^-24 in place of zero
        if prediction == "epsilon" and float(self.alphas_cumprod[-1]) < 1e-6:
            raise CapabilityError(
                "a noise schedule with zero terminal SNR cannot predict epsilon: use v_prediction"
            )

    def level(self, time: Tensor) -> Level:
        """Return the level of integer training times [b]."""
        squared = self.alphas_cumprod.to(time.device)[time.long()]
        return Level(squared.sqrt(), (1 - squared).sqrt(), time)

    def corrupt(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """Return alpha * x0 + sigma * noise, [b c h w]."""
        alpha, sigma = level.like(x0)
        return (alpha * x0.float() + sigma * noise.float()).to(x0.dtype)

    def target(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """Return what the network should answer for these latents, fp32."""
        if self.prediction == "epsilon":
            return noise.float()
        alpha, sigma = level.like(x0)
        return alpha * noise.float() - sigma * x0.float()

    def error(self, output: Tensor, target: Tensor, noisy: Tensor) -> Tensor:
        """Return the squared error per element [b c h w], fp32."""
        return squared_error(output, target)

    def denoised(self, output: Tensor, noisy: Tensor, level: Level) -> Tensor:
        """Return x0 in fp32 from the network's output."""
        alpha, sigma = level.like(noisy)
        if self.prediction == "epsilon":
            return (noisy.float() - sigma * output.float()) / alpha
        return alpha * noisy.float() - sigma * output.float()

    def native(self, x0: Tensor, noisy: Tensor, level: Level) -> Tensor:
        """Return the network's quantity in fp32 from x0: what the scheduler is fed."""
        alpha, sigma = level.like(noisy)
        if self.prediction == "epsilon":
            return (noisy.float() - alpha * x0.float()) / sigma
        return (alpha * noisy.float() - x0.float()) / sigma
