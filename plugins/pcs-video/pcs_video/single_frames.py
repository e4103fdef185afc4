"""Frames of the clips as pictures of their own: the spatial path (MotionDirector, arXiv:2310.08465, 3.2).

In the authors' code (MotionDirector_train.py, ``finetune_unet``) the frame is one of the clip of the step, as
it is noised there, so that one step trains both paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Loss, Words
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Run, Subject

ROLE = "frame"


class SingleFrames(Technique):
    """The reconstruction loss of single frames, whatever moves.

    Of "examples": each frame of the clips is an example of role "frame", and a phase with
    ``batch = { frame = 1 }`` sees one random frame in each step. Pictures are frames already, and are
    given as they are. Of the "step": one random frame of each clip of the batch, noised as the clip is, which
    the network is shown by itself, with the edits of ``edits`` alone.
    """

    id = "video.single_frames"
    catalogue = ("spatial-temporal-split",)
    neutral = {"weight": 0.0}
    later = ("of", "edits")
    tiny_unseen = "it takes frames of clips, and the subject of the contract has pictures"

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the loss of frames."""
    every: Annotated[int, Field(ge=1)] = 1
    """Which frames are given: every first, second, ..."""
    role: str = ROLE
    """Role of the examples, as phases ask for it."""
    of: Literal["examples", "step"] = "examples"
    """Where the frames are from: examples of their own, or the clips of the same step."""
    edits: tuple[str, ...] = ("*",)
    """Uses that act on a frame of the "step", by glob."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        if self.of == "step":
            return Words(reads=("role:subject",))
        return Words(reads=("role:subject",), writes=(f"role:{self.role}",))

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Take the clips apart."""
        if moment != "start" or self.of == "step":
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
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return the mean error of the rows of frames; a batch without any costs nothing."""
        rows = step.batch.rows("subject" if self.of == "step" else self.role)
        if not rows.any():
            return None
        error = self._of_clips(run, step) if self.of == "step" else step.error
        value = error.mean(dim=tuple(range(1, error.dim())))
        return Loss(self.id, value, weight=self.weight, rows=rows)

    def _of_clips(self, run: Run, step: FitStep) -> Tensor:
        """Return the squared error [b c 1 h w] of one frame of each clip, noised as its clip is.

        Raises
        ------
        CapabilityError
            The backbone draws pictures.
        """
        if step.noisy.dim() != 5:
            raise CapabilityError(
                f"{self.id}: the backbone draws pictures, and frames are of clips: choose a video backbone"
            )
        frames, owners = step.noisy.shape[2], step.batch.subject
        # named by the step and not drawn on from it: a fit that goes on finds the same frames
        purpose = f"{self.id}/{step.phase}/{step.index}"
        drawn = [run.subject_rng(s, purpose).randrange(frames) for s in range(step.batch.subjects)]
        at = torch.tensor(drawn, device=owners.device)[owners]
        row = torch.arange(len(at), device=at.device)
        noisy, target = (x[row, :, at][:, :, None] for x in (step.noisy, step.target))
        evaluation = step.evaluate(noisy, step.level, step.cond, edits=",".join(self.edits))
        return (evaluation.output.float() - target.float()).square()
