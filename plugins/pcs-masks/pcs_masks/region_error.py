"""The error of one region under a text of its own: each word explains its part of a picture.

DETEX (arXiv:2312.11826, section 3.3) has the subject's word explain the foreground and another the background;
CLiC (arXiv:2311.17083, section 4.1) has a pattern's word explain the pattern, and the whole text what is
around.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Loss, Words
from pcs_masks.masked_loss import elsewhere, union

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Run


class RegionError(Technique):
    """Add the reconstruction error inside a region, of rows that are told another text there.

    The value of a row is the error summed over the region and divided by the region's size, with ``normalise``;
    else the mean over all places, of which those outside count nothing. A picture without a mask is inside as a
    whole, and says nothing of what is outside.
    """

    id = "masks.region_error"
    rowwise = True
    takes_clips = False
    catalogue = ("masked-loss",)
    neutral = {"weight": 0.0}

    term: str = "region"
    """Name of the term, by which a phase chooses it."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the term."""
    text: str = ""
    """What the network is told; ``{token}`` is the subject's word, ``{noun}`` its class, ``{reference}`` the
    number of the picture. Empty: the row's own caption."""
    region: Literal["inside", "outside", "all"] = "inside"
    """Where the error counts: inside the masks, outside of them, or everywhere."""
    grow: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """By how much of the picture's shorter side a mask is made larger on each side before it is used."""
    softness: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Weight of the error where the grown mask is and the mask itself is not is 1 at 0, and ``softness`` less
    at 1: 1 - ``softness``."""
    normalise: bool = True
    """Whether the region's size does not count: the mean over the region in place of the picture's."""
    regions: str = "mask.concept.*"
    """Glob of the masks, whose largest value at each place is the region."""
    probability: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Share of the steps in which the term is there, each step by a draw of its own."""

    def words(self) -> Words:
        """Return what it reads."""
        return Words() if self.region == "all" else Words(reads=(f"region:{self.regions}",))

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return the term, a value for each of the subject's rows."""
        if not self.weight or not self._drawn(run, step.index):
            return None
        counts = step.batch.rows("subject")
        weight = torch.ones_like(step.noisy[:, :1]).float()
        if self.region != "all":
            inside = union(step.batch, self.regions)
            if inside is None:
                inside = torch.zeros_like(weight)
            has = inside.flatten(1).amax(1) > 0
            if self.region == "inside":  # a picture without a mask is the subject's as a whole
                inside = torch.where(has[:, None, None, None], inside, 1.0)
            else:
                counts = counts & has
            grown = self._grown(inside.float())
            weight = 1 - grown if self.region == "outside" else grown
        weight = weight * elsewhere(step.batch)
        error = self._error(run, step).mean(dim=1, keepdim=True) * weight
        value = error.flatten(1).mean(1)
        if self.normalise:
            value = value / weight.flatten(1).mean(1).clamp_min(1e-6)
        return Loss(self.term, value, weight=self.weight, rows=counts)

    def _error(self, run: Run, step: FitStep) -> Tensor:
        """Return the error per element, of rows that are told the text."""
        if not self.text:
            return step.error
        cond = step.encode(self._texts(run, step))
        output = step.evaluate(step.noisy, step.level, cond).output
        return step.compute_error(output, step.target)

    def _texts(self, run: Run, step: FitStep) -> list[str]:
        batch, texts = step.batch, []
        index = batch.index or (-1,) * len(batch.roles)
        for subject, number in zip(batch.subject.tolist(), index, strict=True):
            concept = run.features.concepts[subject][0]
            text = self.text.replace("{token}", concept.token).replace("{noun}", concept.noun)
            texts.append(text.replace("{reference}", str(number)))
        return texts

    def _grown(self, inside: Tensor) -> Tensor:
        """Return masks [b 1 h w], each place the largest value within reach, less where it was nothing
        before.
        """
        reach = round(self.grow * min(inside.shape[-2:]))
        if not reach:
            return inside
        grown = F.max_pool2d(inside, 2 * reach + 1, stride=1, padding=reach)
        return inside + (1 - self.softness) * (grown - inside)

    def _drawn(self, run: Run, step: int) -> bool:
        """Return whether the term is there in a step, the same after an interruption."""
        if self.probability == 1.0:
            return True
        return run.subject_rng(0, f"{self.id}/{self.term}/{step}").random() < self.probability
