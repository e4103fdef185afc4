"""What is trained goes on predicting what a frozen network predicts: the base, or a model of the recipe.

CustomTTT (arXiv:2412.15646) holds merged LoRAs to the single one that each comes from; Face2Diffusion
(arXiv:2403.05094) the background to what a prompt with the class word makes of it; the W+ Adapter
(arXiv:2311.17461) the network to itself without the adapter, on the background and everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.backbone import substitute
from pcs_core.data import Loss, Word, Words
from pcs_core.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Run


class PredictionPreservation(Technique):
    """Add the mean squared distance to what a frozen network says of the same noisy latents.

    The distance is in the network's own quantity (noise, velocity), in which it is trained. The reference has
    no gradient, and reads each text with its own encoder.
    """

    id = "regularizers.prediction_preservation"
    rowwise = True
    catalogue = ("prediction-preservation",)
    neutral = {"weight": 0.0}
    tiny = {"prompt": "a photo of a {noun}"}
    tiny_beside = {"tokens.learnable": {}}

    model: str = "base"
    """What is held to: "base", the network without what is fitted, or a `[[model]]` of the recipe by name."""
    prompt: str = ""
    """What the reference reads; ``{noun}`` is the class noun. Without it the caption of each row, with the noun
    in place of the subject's word where the reference does not know that word."""
    region: Literal["all", "background"] = "all"
    """Whether it counts everywhere, or where no concept is: 1 minus the largest of the concepts' masks."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the term."""
    term: str = "preservation"
    """Name of the term, by which a phase chooses it."""

    def words(self) -> Words:
        """Return the model that it asks, and the masks that it reads."""
        asked = () if self.model == "base" else (f"model:{self.model}",)
        masks = ("region:mask.concept.*",) if self.region == "background" else ()
        return Words(reads=(*asked, *masks))

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return the term: a value for each row."""
        if self.weight == 0.0:
            return None
        # the reference is a constant: nothing of it is kept for a gradient
        with torch.no_grad():
            cond = step.encode(self._texts(run, step), model=self.model)
            reference = step.evaluate(step.noisy, step.level, cond, model=self.model).output
        away = (step.output.float() - reference.float()).square()
        weights = self._weights(step)
        if weights is not None:
            away = away * weights
        return Loss(self.term, away.flatten(1).mean(1), weight=self.weight)

    def _texts(self, run: Run, step: FitStep) -> list[str]:
        texts = []
        for caption, subject in zip(step.batch.captions, step.batch.subject.tolist(), strict=True):
            concepts = run.features.concepts[subject]
            if self.prompt:
                texts.append(self.prompt.replace("{noun}", concepts[0].noun))
            elif self.model == "base":
                words = [Word(c.token, c.noun, c.noun) for c in concepts]
                texts.append(substitute(caption, words))
            else:  # a further model knows by itself which words it has learned
                texts.append(caption)
        return texts

    def _weights(self, step: FitStep) -> Tensor | None:
        """Return 1 where no concept is [b 1 h w], or None where all counts."""
        if self.region == "all":
            return None
        regions = [v for k, v in step.batch.regions.items() if k.startswith("mask.concept.")]
        if not regions:
            raise RecipeError(
                f'{self.id}: `region` is "background", and no picture has a mask of a concept: give masks '
                "beside the pictures, or leave `region` out"
            )
        return 1.0 - torch.stack(regions).amax(0)
