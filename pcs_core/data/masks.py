"""Masks by name, and the question a mask technique is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data.steps import FitStep, SampleStep
    from pcs_core.data.subject import Subject

LOSS = "loss"
"""Key of the mask that weighs the reconstruction error per element."""


@dataclass(frozen=True, slots=True)
class Masks:
    """Named masks. Values broadcast against what they weigh.

    Moment "subject": one [n 1 h w] tensor in [0, 1] per key, a row per reference image.
    Moment "batch" and "step": [b 1 h w] at latent size.
    """

    by_name: Mapping[str, Tensor] = field(default_factory=dict)

    def get(self, key: str) -> Tensor | None:
        """Return the mask called ``key`` or None."""
        return self.by_name.get(key)


@dataclass(frozen=True, slots=True)
class MaskQuery:
    """When and about what masks are asked: ``moment`` is subject or batch."""

    moment: str
    subject: Subject | None = None
    step: FitStep | SampleStep | None = None
    size: tuple[int, int] | None = None
