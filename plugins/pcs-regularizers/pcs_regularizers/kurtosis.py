"""Bands of a natural picture are alike in kurtosis (DiffNat, arXiv:2311.09753): the spread is penalised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Loss
from pcs_core.errors import CapabilityError
from pcs_regularizers.wavelets import bands

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Run

Moments = Annotated[int, Field(ge=1, le=16)]


class Kurtosis(Technique):
    """Penalise the largest less the smallest kurtosis over bands of the predicted picture.

    The picture is what one evaluation says of the step's noisy rows, at whatever noise level they have. The
    spread is taken in each channel, over the horizontal, vertical and diagonal details of each wavelet, and
    averaged over channels.
    """

    id = "regularizers.kurtosis"
    rowwise = True
    takes_clips = False
    catalogue = ("aux-loss",)
    neutral = {"weight": 0.0}

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the term."""
    moments: Annotated[tuple[Moments, ...], Field(min_length=1)] = (1, 2, 3, 4, 5, 6, 7, 8, 9)
    """Daubechies wavelets by their vanishing moments (1 is Haar's); each gives three bands."""
    space: Literal["pixels", "latents"] = "pixels"
    """Whether the prediction is decoded first."""

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return the spread, a value for each row of the subject."""
        if self.weight == 0.0:
            return None
        x = step.x0
        if x.shape != step.batch.latents.shape:
            raise CapabilityError(
                f"{self.id}: what this backbone predicts is no picture, but tokens"
            )
        with torch.autocast(x.device.type, enabled=False):
            if self.space == "pixels":
                x = run.backbone.decode(x)  # type: ignore[attr-defined]
            value = spread(x.float(), self.moments)
        return Loss("kurtosis", value, weight=self.weight, rows=step.batch.rows("subject"))


def spread(x: Tensor, moments: tuple[int, ...]) -> Tensor:
    """Return the largest less the smallest kurtosis [b] over bands of pictures [b c h w], mean of channels."""
    each = torch.stack([kurtosis(band) for m in moments for band in bands(x, m)])
    return (each.amax(0) - each.amin(0)).mean(1)


def kurtosis(x: Tensor) -> Tensor:
    """Return the fourth central moment over the squared variance [b c] of [b c h w]; 0 where all are equal."""
    away = x - x.mean(dim=(2, 3), keepdim=True)
    variance = away.square().mean(dim=(2, 3))
    return away.pow(4).mean(dim=(2, 3)) / variance.square().clamp_min(1e-12)
