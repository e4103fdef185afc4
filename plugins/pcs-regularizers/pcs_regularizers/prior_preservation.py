"""Class images of the frozen base keep the class from drifting (DreamBooth, arXiv:2208.12242, 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Example, Features, Loss
from pcs_core.errors import InputError
from pcs_regularizers.class_pictures import (
    ClassFolder,
    class_pictures,
    list_class_folder,
    place_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import BackboneCard, Concept, FitStep, Run, Subject

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
    later = ("class_pictures",)
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
    class_pictures: str = ""
    """Folder of class images: those in it are used, all of them, and what it lacks of ``count`` is drawn and
    kept there. Of several prompts each has a folder in it."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Draw the class images with the base, ``count`` of each prompt that the concepts' classes make.

        A prompt without ``{noun}`` is one, whatever the concepts are.
        """
        if moment != "start":
            return None
        every = tuple(c for concepts in run.features.concepts for c in concepts)
        shared = self._prompts(every or subject.concepts)
        return Features(
            examples=tuple(
                example
                for prompt in self._prompts(subject.concepts)
                for example in (
                    self._of_folder(run, prompt, shared)
                    if self.class_pictures
                    else self._examples(run, prompt)
                )
            )
        )

    def plan(self, subject: Subject, card: BackboneCard) -> tuple[str, ...]:
        """Say how many class images there are and how many are drawn."""
        prompts = self._prompts(subject.concepts)
        if not self.class_pictures:
            return tuple(f"class pictures of {p!r}: {self.count} are drawn" for p in prompts)
        return tuple(
            line
            for prompt in prompts
            for line in self._listed(prompt, prompts).plan(self.count, card)
        )

    def _prompts(self, concepts: Sequence[Concept]) -> tuple[str, ...]:
        nouns = (concept.noun for concept in concepts)
        return tuple(dict.fromkeys(self.prompt.replace("{noun}", noun) for noun in nouns))

    def _listed(self, prompt: str, prompts: Sequence[str]) -> ClassFolder:
        folder = Path(self.class_pictures).expanduser()
        return list_class_folder(place_of(folder, prompt, prompts), prompt)

    def _of_folder(self, run: Run, prompt: str, prompts: Sequence[str]) -> list[Example]:
        if run.frames:
            raise InputError(
                f"{self.id}: class_pictures are still pictures, and this backbone draws clips: leave them out"
            )
        card = run.backbone.card  # type: ignore[attr-defined]
        known = self._listed(prompt, prompts)
        for line in known.plan(self.count, card):
            run.log(line)

        def draw(count: int, seed: int) -> Tensor:
            return run.draw([prompt] * count, seed=seed, scale=self.scale, steps=self.steps)

        images = class_pictures(known, self.count, card, run.seed, run.image_size, draw)
        return [Example(image=image, captions=(prompt,), role=ROLE) for image in images]

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
