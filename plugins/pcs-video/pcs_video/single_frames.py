"""Frames of the clips as pictures of their own: the spatial path (MotionDirector, arXiv:2310.08465, 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Loss, Words

if TYPE_CHECKING:
    from pcs_core.data import FitStep, Run, Subject

ROLE = "frame"


class SingleFrames(Technique):
    """Give each frame of the clips as an example of role "frame", and its reconstruction loss.

    A phase with ``batch = { frame = 1 }`` then sees one random frame in each step, whatever moves.
    Pictures are frames already, and are given as they are.
    """

    id = "video.single_frames"
    catalogue = ("spatial-temporal-split",)
    neutral = {"weight": 0.0}
    tiny_unseen = "it takes frames of clips, and the subject of the contract has pictures"

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the loss of frames."""
    every: Annotated[int, Field(ge=1)] = 1
    """Which frames are given: every first, second, ..."""
    role: str = ROLE
    """Role of the examples, as phases ask for it."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(reads=("role:subject",), writes=(f"role:{self.role}",))

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Take the clips apart."""
        if moment != "start":
            return None
        frames = []
        for example in run.features.examples:
            if example.role != "subject":
                continue
            clip = example.image if example.image.dim() == 4 else example.image[:, None]
            for i in range(0, clip.shape[1], self.every):
                one = clip[:, i : i + 1].clone()  # examples are known by where their memory begins
                image = one if example.image.dim() == 4 else one[:, 0]
                frames.append(example.with_(image=image, role=self.role))
        return Features(examples=tuple(frames))

    @hookimpl
    def regularize(self, step: FitStep) -> Loss | None:
        """Return the mean error of the rows of frames; a batch without any costs nothing."""
        rows = step.batch.rows(self.role)
        if not rows.any():
            return None
        error = step.error
        value = error.mean(dim=tuple(range(1, error.dim())))
        return Loss(self.id, value, weight=self.weight, rows=rows)
