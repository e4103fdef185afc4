"""Masked tokens of a codebook in place of noise, and logits in place of a denoised picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from pcs_core.data.steps import Level
from pcs_processes.integer_times import IntegerTimes

if TYPE_CHECKING:
    from torch import Tensor


class MaskedTokens(IntegerTimes):
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
