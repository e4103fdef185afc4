"""Pictures that are not protected: what a surrogate learns from (Anti-DreamBooth, arXiv:2303.15433).

In the authors' script they are a set of their own (``--instance_data_dir_for_train``), apart from the
pictures that are changed (``--instance_data_dir_for_adversarial``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pcs_core import Technique, fit_image, hookimpl
from pcs_core.data import Example, Features, Loss

if TYPE_CHECKING:
    from pcs_core.data import FitStep, Run, Subject

ROLE = "clean"


class CleanSet(Technique):
    """Give the subject's clean set as examples of role "clean", and their reconstruction loss.

    The set is ``subject.others["clean"]`` (`pcs protect --clean FOLDER`). A subject without one gives
    unchanged copies of its references in its place, which is told: a surrogate then knows the very pictures
    that it is attacked on.
    """

    id = "defense.clean_set"
    takes_clips = False
    writes = ("role:clean",)
    catalogue = ("perturbation-defense",)
    neutral = {"weight": 0.0}
    tiny_batch = {"clean": 1}

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the loss "defense.clean"."""
    caption: str = "a photo of {token}"
    """Caption of every picture of the set; ``{token}`` stands for the subject."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Give the set as examples, which belong to no reference."""
        if moment != "start":
            return None
        images = subject.others.get(ROLE, ())
        if not images:
            run.log(
                f"subject {subject.name!r} has no clean set of its own: the surrogate learns from unchanged "
                "copies of the pictures to protect"
            )
            images = subject.images
        token = subject.concept.token if subject.concepts else ""
        caption = self.caption.replace("{token}", token)
        # no index: a change of the references leaves these alone
        return Features(
            examples=tuple(
                Example(image=fit_image(i, run.image_size), captions=(caption,), role=ROLE)
                for i in images
            )
        )

    @hookimpl
    def regularize(self, step: FitStep) -> Loss | None:
        """Return the mean squared error of the clean rows; a batch without any costs nothing."""
        rows = step.batch.rows(ROLE)
        if not rows.any():
            return None
        value = step.error.mean(dim=tuple(range(1, step.error.dim())))
        return Loss("defense.clean", value, weight=self.weight, rows=rows)
