"""Class images of the frozen base keep the class from drifting (DreamBooth, arXiv:2208.12242, 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Example, Features, Loss

if TYPE_CHECKING:
    from pcs_core.data import FitStep, Run, Subject

ROLE = "prior"


class PriorPreservation(Technique):
    """Add ``weight`` times the reconstruction loss on ``count`` class images.

    The images are drawn by the frozen base before step 0 and kept with the fit's work.
    """

    id = "regularizers.prior_preservation"
    rowwise = True
    writes = ("role:prior",)
    catalogue = ("prior-preservation",)
    neutral = {"weight": 0.0}
    profiled = {"prompt": "class_prompt"}
    tiny = {"count": 2, "steps": 2}
    tiny_batch = {"subject": 1, "prior": 1}

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor lambda of the class term."""
    count: Annotated[int, Field(ge=1, le=10000)] = 200
    """Number of class images of each prompt. The paper draws about 1000, common SD recipes 200."""
    prompt: str = "a photo of a {noun}"
    """Prompt of the class images, and their caption; without ``{noun}`` one for all classes."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Sampling steps for the class images; the recipe's own when not given."""
    scale: Annotated[float, Field(ge=1.0)] | None = None
    """Guidance scale for the class images; the recipe's own when not given."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Draw the class images with the base, ``count`` of each prompt that the concepts' classes make.

        A prompt without ``{noun}`` is one, whatever the concepts are.
        """
        if moment != "start":
            return None
        nouns = (concept.noun for concept in subject.concepts)
        prompts = dict.fromkeys(self.prompt.replace("{noun}", noun) for noun in nouns)
        return Features(
            examples=tuple(e for prompt in prompts for e in self._examples(run, prompt))
        )

    def _examples(self, run: Run, prompt: str) -> list[Example]:
        name = f"class-images-{self.count}-{self.steps}-{self.scale}-{prompt}".replace(" ", "-")

        def draw() -> dict[str, object]:
            run.log(f"drawing {self.count} pictures of {prompt!r} with the frozen base")
            return {
                "images": run.draw(
                    [prompt] * self.count, seed=run.seed, scale=self.scale, steps=self.steps
                )
            }

        images = run.cached(name, draw)["images"]  # type: ignore[arg-type]
        # no index: a class picture is no reference, and edits of references must leave it alone
        return [Example(image=image, captions=(prompt,), role=ROLE) for image in images]

    @hookimpl
    def regularize(self, step: FitStep) -> Loss | None:
        """Return the class term: mean squared error of the class rows."""
        error = step.error
        value = error.mean(dim=tuple(range(1, error.dim())))
        return Loss(ROLE, value, weight=self.weight, rows=step.batch.rows(ROLE))
