"""Masks by name, and the question a mask technique is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data.steps import FitStep, SampleStep
    from pcs_core.data.subject import Subject

LOSS = "loss"
"""Key of the mask that weighs the reconstruction error per element."""


REGION = "mask."
"""Beginning of the name of an example's region; "mask.concept.<k>" is that of the k-th concept."""


def region_name(slot: int) -> str:
    """Return the name of the region of a subject's concept number ``slot``."""
    return f"{REGION}concept.{slot}"


def mask_at(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``mask`` [1 h w] or [n 1 h w] at ``size``: each value the mean of the area it covers.

    The mean, so that a mask at the size of the latents says which part of a cell is inside.
    """
    stacked = mask[None] if mask.dim() == 3 else mask
    resized = F.interpolate(stacked.float(), size=size, mode="area")
    return resized[0] if mask.dim() == 3 else resized


@dataclass(frozen=True, slots=True)
class Masks:
    """Named masks. Values broadcast against what they weigh.

    Moment "subject": one [n 1 h w] tensor in [0, 1] per key, a row per reference picture, laid over
    the whole picture as it was given or over the part that the network is shown (``query.size``): it is
    scaled to cover that size and centre-cropped, as the picture is. The key is "loss", the name of a
    concept (which becomes the region "mask.concept.<k>" of the fit's examples), or a name of the
    technique's own (the region "mask.<key>"). A picture without the thing has zeros.
    Moment "batch": [b 1 h w] at the size of the latents (``query.size``), not negative.
    """

    by_name: Mapping[str, Tensor] = field(default_factory=dict)

    def get(self, key: str) -> Tensor | None:
        """Return the mask called ``key`` or None."""
        return self.by_name.get(key)


@dataclass(frozen=True, slots=True)
class MaskQuery:
    """When and about what masks are asked: ``moment`` is subject or batch.

    ``size`` is that of the backbone's pictures (h, w), or of the latents at moment "batch".
    """

    moment: str
    subject: Subject | None = None
    step: FitStep | SampleStep | None = None
    size: tuple[int, int] | None = None
