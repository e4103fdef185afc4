"""Guidance whose prediction keeps the spread of the text's own (arXiv:2305.08891, section 3.4).

Guidance of a large scale makes what the network says of the text larger than it was trained to be, and pictures
over-exposed. Its standard deviation is brought back, and blended with what it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Prediction
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor

    from pcs_core.data import Run, SampleStep


class GuidanceRescale(Technique):
    """Scale the guided prediction to the standard deviation of the positive branch's, by ``amount``.

    Both are what the network itself predicts (noise, v or flow), each picture by itself over all of its
    channels and places. Whatever else guides the step is rescaled with it.
    """

    id = "guidance.rescale"
    neutral = {"amount": 0.0}

    amount: Annotated[float, Field(ge=0.0, le=1.0)] = 0.7
    """How much of the rescaled prediction is taken (the paper's phi), 0: none. The paper draws with 0.7."""

    @hookimpl(wrapper=True)
    def sample(
        self, run: Run, step: SampleStep
    ) -> Generator[None, Prediction | None, Prediction | None]:
        """Rescale what the step predicts.

        Raises
        ------
        CapabilityError
            The network predicts tokens, which have no such spread.
        """
        prediction = yield
        if prediction is None or not self.amount or not step.terms:
            return prediction
        process = run.backbone.process  # type: ignore[attr-defined]
        if process.prediction == "tokens":
            raise CapabilityError(
                f"{self.id}: backbone {run.backbone.card.id!r} predicts tokens, whose "  # type: ignore[attr-defined]
                "logits have no spread to be kept: leave it out"
            )
        guided, text = (
            process.native(x0, step.latents, step.level) for x0 in (prediction.x0, step.positive)
        )
        rescaled = guided * (spread(text) / spread(guided))
        native = self.amount * rescaled + (1 - self.amount) * guided
        return Prediction(process.denoised(native, step.latents, step.level))


def spread(x: Tensor) -> Tensor:
    """Return the standard deviation of each row of ``x`` [b ...], with a 1 for each other axis."""
    deviation = x.std(dim=tuple(range(1, x.dim())), keepdim=True)
    return deviation.clamp_min(torch.finfo(deviation.dtype).tiny)
