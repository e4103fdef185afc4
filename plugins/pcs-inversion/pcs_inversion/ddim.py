"""DDIM inversion of a reference (arXiv:2010.02502, section 4.3): the noise it comes from, and the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Features

if TYPE_CHECKING:
    from pcs_core.data import Run, Subject

TRAJECTORY = "ddim.trajectory"


class DDIMInversion(Technique):
    """Invert one reference before step 0 and keep its trajectory in the artifact.

    The feature ``ddim.trajectory`` [steps+1 c h w] goes from the picture's latents to pure noise. A
    subject without pictures has none.
    """

    id = "inversion.ddim"
    reads = ("role:subject",)
    writes = ("feature:ddim.trajectory",)
    catalogue = ("ddim-inversion",)
    tiny = {"steps": 3}

    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Inversion steps. As many sampling steps meet the stored latents level by level."""
    scale: Annotated[float, Field(ge=1.0, le=100.0)] = 1.0
    """Guidance scale of the inversion; above 1 the way back no longer ends at the picture."""
    prompt: str = "a picture of a {noun}"
    """Prompt of the inversion; ``{noun}`` is the subject's noun."""
    image: Annotated[int, Field(ge=0)] = 0
    """Which reference is inverted, from 0."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Invert the reference under the frozen base."""
        shown = [e for e in run.features.examples if e.role == "subject"]
        if moment != "start" or not shown:
            return None
        noun = subject.concepts[0].noun if subject.concepts else ""
        prompt = self.prompt.replace("{noun}", noun)
        picture = shown[min(self.image, len(shown) - 1)].image
        run.log(f"inverting a picture of {subject.name!r} in {self.steps} steps")
        trajectory = run.invert(picture, prompt, steps=self.steps, scale=self.scale)
        return Features(tensors={TRAJECTORY: trajectory.cpu()}, keep=(TRAJECTORY,))
