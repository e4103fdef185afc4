"""Losses on what changes between frames, with what they share taken out.

Appearance-debiased loss (MotionDirector, arXiv:2310.08465, section 3.3) and frame differences (VMC,
arXiv:2312.00845, section 3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Loss, Words
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Run


def debiased(x: Tensor, anchor: Tensor, beta: float) -> Tensor:
    """Return sqrt(beta^2 + 1) x_i - beta x_anchor for each frame i of ``x`` [b c t h w].

    ``anchor`` [b] is the index of each row's anchor frame.
    """
    shared = x[torch.arange(len(x), device=x.device), :, anchor][:, :, None]
    return (beta**2 + 1) ** 0.5 * x - beta * shared


class MotionResidual(Technique):
    """Compare the network's quantity and its target in terms of motion, beside the plain error."""

    id = "video.motion_residual"
    catalogue = ("motion-residual-loss",)
    neutral = {"weight": 0.0}
    tiny_clips = True

    form: Literal["anchor", "difference"] = "anchor"
    """"anchor": squared error with an anchor frame's share subtracted (MotionDirector). "difference":
    one minus the cosine of the differences of neighbouring frames (VMC)."""
    beta: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    """Strength of the subtraction with form "anchor"; 0 is the plain error."""
    anchor: Literal["random", "first"] = "random"
    """Which frame is the anchor: a new one in each step, or the first."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the term."""
    role: str = "subject"
    """Role of the rows it speaks about."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(reads=(f"role:{self.role}",))

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return the term for the rows of clips."""
        rows = step.batch.rows(self.role)
        if not rows.any():
            return None
        if step.noisy.dim() != 5:
            raise CapabilityError(
                f"{self.id}: the backbone draws pictures, and motion needs clips: choose a video backbone"
            )
        output, target = step.output.float(), step.target.float()
        if self.form == "difference":
            if output.shape[2] < 2:
                raise CapabilityError(f"{self.id}: a clip of one frame has no differences")
            moved, target_motion = output.diff(dim=2), target.diff(dim=2)
            each = 1 - F.cosine_similarity(moved.flatten(3), target_motion.flatten(3), dim=3)
            return Loss(self.id, each.mean(dim=(1, 2)), weight=self.weight, rows=rows)
        anchor = self._anchors(run, step, output.shape[2])
        error = (debiased(output, anchor, self.beta) - debiased(target, anchor, self.beta)).square()
        return Loss(self.id, error.mean(dim=(1, 2, 3, 4)), weight=self.weight, rows=rows)

    def _anchors(self, run: Run, step: FitStep, frames: int) -> Tensor:
        """Return the anchors [b] of this step, one for each subject."""
        owners = step.batch.subject
        if self.anchor == "first":
            return torch.zeros_like(owners)
        # named by the step and not drawn on from it: a fit that goes on finds the same anchors
        purpose = f"{self.id}/{step.phase}/{step.index}"
        drawn = [run.subject_rng(s, purpose).randrange(frames) for s in range(step.batch.subjects)]
        return torch.tensor(drawn, device=owners.device)[owners]
