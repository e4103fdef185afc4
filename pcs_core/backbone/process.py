"""What the network speaks: conversions between x0, noise, v, token logits and the network's own output.

x0 is the common tongue. Everything is computed in fp32, whatever the network's dtype: converting
in bf16 costs more accuracy than running the network in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F

from pcs_core.data.steps import Level, squared_error
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Generator, Tensor

PredictionType = Literal["epsilon", "v_prediction"]


class VariancePreserving:
    """Discrete-time diffusion with alpha^2 + sigma^2 = 1 (DDPM, arXiv:2006.11239; v: 2202.00512).

    ``alphas_cumprod`` [T] is alpha^2 per training time. Latents [b c ...] may have any number of axes.
    """

    continuous: ClassVar[bool] = True

    def __init__(self, alphas_cumprod: Tensor, prediction: PredictionType) -> None:
        self.alphas_cumprod = alphas_cumprod.detach().float()
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

    @property
    def times(self) -> int:
        """Number of training times T."""
        return int(self.alphas_cumprod.shape[0])

    def level(self, time: Tensor) -> Level:
        """Return the level of integer training times [b]."""
        squared = self.alphas_cumprod.to(time.device)[time.long()]
        return Level(squared.sqrt(), (1 - squared).sqrt(), time)

    def fraction(self, level: Level) -> Tensor:
        """Return the noise level of each row [b] in [0, 1], 1 = pure noise."""
        return level.time.float() / (self.times - 1)

    def at(self, fraction: Tensor) -> Tensor:
        """Return the training times of noise levels [b] in [0, 1]."""
        return (fraction.clamp(0, 1) * (self.times - 1)).round().long()

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        """Return ``count`` training times, uniform, on the generator's device."""
        return torch.randint(0, self.times, (count,), generator=rng, device=rng.device)

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


class MaskedTokens:
    """Tokens of a codebook, some of them masked (MaskGIT, arXiv:2202.04200, section 3; Muse, 2301.00704).

    Latents [b 1 h w] hold token ids as fp32, exact below 2^24; ``mask_id`` is that of a masked token.
    The noise level is a time: at level f the share cos((1 - f) pi / 2) of the tokens is masked, those
    of the smallest ``noise``. The network answers with logits [b v h w]; x0 is these logits, since
    what is mixed and guided is the prediction and not the token drawn from it.
    """

    continuous: ClassVar[bool] = False
    prediction: ClassVar[str] = "tokens"

    def __init__(self, mask_id: int, times: int = 1000) -> None:
        self.mask_id, self.times = mask_id, times

    def level(self, time: Tensor) -> Level:
        """Return the level of integer training times [b]: sigma is the share of masked tokens."""
        fraction = time.float() / (self.times - 1)
        masked = torch.cos((1 - fraction) * (math.pi / 2)).clamp(0, 1)
        return Level(1 - masked, masked, time)

    def fraction(self, level: Level) -> Tensor:
        """Return the noise level of each row [b] in [0, 1], 1 = all masked."""
        return level.time.float() / (self.times - 1)

    def at(self, fraction: Tensor) -> Tensor:
        """Return the training times of noise levels [b] in [0, 1]."""
        return (fraction.clamp(0, 1) * (self.times - 1)).round().long()

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        """Return ``count`` training times, uniform, on the generator's device."""
        return torch.randint(0, self.times, (count,), generator=rng, device=rng.device)

    def corrupt(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """Return the tokens [b 1 h w] with the level's share masked, at least one in each row."""
        order = noise.flatten(1).argsort(dim=1).argsort(dim=1)
        share = level.sigma.to(order.device).float()
        count = (share * order.shape[1]).round().clamp(min=1)
        masked = (order < count[:, None]).view(x0.shape)
        return x0.masked_fill(masked, float(self.mask_id))

    def target(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """Return the token ids [b 1 h w], long."""
        return x0.round().long()

    def error(self, output: Tensor, target: Tensor, noisy: Tensor) -> Tensor:
        """Return the cross-entropy [b 1 h w] of the masked tokens, fp32; that of others is zero.

        It is scaled so that a row's mean is the mean over its masked tokens.
        """
        masked = (noisy == self.mask_id).float()
        each = F.cross_entropy(output.float(), target[:, 0], reduction="none")[:, None]
        total = masked.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1.0)
        return each * masked * (masked[0].numel() / total)

    def denoised(self, output: Tensor, noisy: Tensor, level: Level) -> Tensor:
        """Return the logits in fp32."""
        return output.float()

    def native(self, x0: Tensor, noisy: Tensor, level: Level) -> Tensor:
        """Return the logits: what the scheduler draws tokens from."""
        return x0.float()
