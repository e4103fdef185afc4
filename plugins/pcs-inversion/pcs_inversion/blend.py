"""Latents of an inverted reference stand in a region of what is drawn (HiFi Tuner, arXiv:2312.00079, section
3.4).

In the first part of a drawing the subject's place holds what the reference holds there at the same noise level,
so that what is drawn later goes on from the reference's subject.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Words
from pcs_inversion.ddim import TRAJECTORY

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor

    from pcs_core.data import Masks, Prediction, Run, SampleStep, Subject

MASK = "blend.mask"
"""Feature: where the subject is in the inverted reference [1 h w], at the size of the latents; ones without a
mask."""


class LatentBlend(Technique):
    """Put the latents of an inverted reference into a region of the pictures for a part of the sampling.

    The stored latents of the level of each step are taken, as nearly as the inversion has one. Trains nothing.
    """

    id = "inversion.blend"
    takes_clips = False
    catalogue = ("latent-blend",)
    neutral = {"weight": 0.0}
    tiny_beside = {"inversion.ddim": {}}

    trajectory: str = TRAJECTORY
    """The feature that holds the inverted reference [steps+1 c h w], from the picture's latents to noise."""
    image: Annotated[int, Field(ge=0)] = 0
    """Which reference was inverted, from 0: its mask says where the subject is."""
    region: Literal["inside", "outside", "all"] = "inside"
    """Where the reference stands: in the subject's mask, outside of it (all else is then kept), or
    everywhere."""
    grow: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """By how much of the picture's shorter side the mask is made larger on each side."""
    weight: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Share of the reference there; the rest is the picture's own."""
    start: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Part of the sampling at which it begins, 0 = pure noise."""
    stop: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Part of the sampling at which it ends, 1 = the picture."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(
            reads=(f"feature:{self.trajectory}",),
            may_read=("region:mask.concept.*",),
            writes=(f"feature:{MASK}",),
        )

    @hookimpl
    def extract(self, run: Run, subject: Subject, masks: Masks, moment: str) -> Features | None:
        """Keep the mask of the inverted reference."""
        shown = [e for e in run.features.examples if e.role == "subject"]
        if moment != "start" or not shown:
            return None
        place = min(self.image, len(shown) - 1)
        name = subject.concepts[0].name if subject.concepts else ""
        rows: Any = masks.by_name.get(name)
        height, width = run.encode(shown[place].image[None].to(run.device)).shape[-2:]
        mask = torch.ones(1, height, width)
        if rows is not None and bool(rows[place].any()):
            mask = F.adaptive_avg_pool2d(rows[place].float().cpu(), (height, width))
        reach = round(self.grow * min(height, width))
        if reach:
            mask = F.max_pool2d(mask[None], 2 * reach + 1, stride=1, padding=reach)[0]
        return Features(tensors={MASK: mask}, keep=(MASK,))

    @hookimpl(wrapper=True)
    def sample(self, run: Run, step: SampleStep) -> Generator[None, Prediction, Prediction]:
        """Put the reference's latents where they stand, before the network is asked."""
        if self.weight and self.start <= step.progress < self.stop:
            stored = run.features.get(self.trajectory, self.id)[0]
            at = round((1 - step.progress) * (len(stored) - 1))
            reference = stored[at].to(step.latents)[None]
            share = self.weight * self._where(run).to(step.latents)
            step.latents = step.latents + share * (reference - step.latents)
        return (yield)

    def _where(self, run: Run) -> Tensor:
        """Return where the reference stands [1 1 h w], values in [0, 1]."""
        mask = run.features.get(MASK, self.id)
        return {"inside": mask, "outside": 1 - mask, "all": torch.ones_like(mask)}[self.region]
