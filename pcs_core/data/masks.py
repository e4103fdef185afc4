"""Masks by name, and the question a mask technique is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data.steps import FitStep, SampleStep
    from pcs_core.data.subject import Subject

LOSS = "loss"
"""Key of the mask that weighs the reconstruction error per element."""


REGION = "mask."
"""Beginning of the name of an example's region; "mask.concept.<k>" is that of the k-th concept."""


VALID = "mask.valid."
"""Beginning of the names of regions that say where a picture on a ground around it is a picture. Each technique
has one of its own: masks of one name multiply."""


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


def valid_cells(covered: Tensor) -> Tensor:
    """Return 1 for the cells [b 1 h w] that show the picture alone, 0 for others, of the share that it covers.

    Covered whole, and beside no cell that shows nothing of it: what an encoder says there depends on
    the ground. A picture too small for such cells has its share of each cell.
    """
    seen = (covered > 0).to(covered)
    # the least of a cell and its neighbours; beyond the edge of the picture there is no ground
    around = -F.max_pool2d(-seen, kernel_size=3, stride=1, padding=1)
    inside = (covered > 1 - 1e-6).to(covered) * around
    some = inside.amax(dim=(1, 2, 3), keepdim=True) > 0
    return torch.where(some, inside, covered)


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
