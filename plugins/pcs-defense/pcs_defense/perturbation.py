"""A bounded change of the references that raises the denoising error (Anti-DreamBooth, arXiv:2303.15433)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Fusion, Loss, PixelEdit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Run, Subject

COUNT = "defense.references"
"""Feature: how many references there are, [1]."""
DELTA = "pixels/delta"
"""Middle and end of the parameter's name."""


class Delta(PixelEdit):
    """One change of pixels per reference, ``delta`` [N 3 h w] in [-1, 1], times the bound.

    ``bound`` is in units of pixels in [0, 1]. What leaves the bound or [0, 1] is cut off, with the
    gradient of what was not: else an element that once got there would never come back.
    """

    def __init__(self, count: int, size: tuple[int, int], bound: float) -> None:
        super().__init__("pixels")
        self.bound = bound
        self.delta = nn.Parameter(torch.zeros(count, 3, *size))

    def input(self, images: Tensor, index: Tensor) -> Tensor:
        """Return references changed by their own delta; pictures that are none (index -1) as they are."""
        delta = _cut(self.delta, -1.0, 1.0)[index.clamp_min(0)].to(images)
        chosen = (index >= 0).view(-1, 1, 1, 1)
        return torch.where(chosen, _cut(images + self.bound * delta, 0.0, 1.0), images)


def _cut(x: Tensor, low: float, high: float) -> Tensor:
    """Return ``x`` cut to [low, high], with the gradient of ``x``."""
    return x + (x.clamp(low, high) - x).detach()


class Perturbation(Technique):
    """Learn a change of every reference, at most ``eps`` per channel, that makes denoising it hard.

    The loss "defense.adversarial" is the negative reconstruction error of the subject's rows. Let a
    phase of its own train ``defense.perturbation/*`` with that loss and the optimizer "pgd", whose
    rate is in units of ``eps``; other phases train a surrogate. The result is the change (in the
    artifact), not a model: ``pcs protect`` writes the pictures.
    """

    id = "defense.perturbation"
    takes_clips = False
    reads = ("role:subject",)
    writes = ("feature:defense.references",)
    catalogue = ("perturbation-defense",)
    neutral = {"eps": 0.0}
    tiny = {"weight": 2.0}
    stacks_subjects = False

    eps: Annotated[float, Field(ge=0.0, le=2.0)] = 0.05
    """Largest change of a channel, for pixels in [-1, 1]."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the adversarial loss."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Count the references: sampling builds the change again without them."""
        if moment != "start":
            return None
        count = torch.tensor([len(subject.images)])
        return Features(tensors={COUNT: count}, keep=(COUNT,))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put one change per reference before the encoder."""
        if not self.eps:  # an edit before the encoder alone would change how latents are drawn
            return None
        count = int(features.tensors[COUNT][0, 0])
        return Fusion(edits=(Delta(count, run.image_size, self.eps / 2),))

    @hookimpl
    def regularize(self, step: FitStep) -> Loss | None:
        """Return the negative reconstruction error of the subject's rows."""
        if not self.eps:
            return None
        error = step.error.mean(dim=(1, 2, 3))
        rows = step.batch.rows("subject")
        return Loss("defense.adversarial", -error, weight=self.weight, rows=rows)
