"""Guidance in an interval of noise levels only (arXiv:2404.07724, section 3).

Outside of it the negative branch is not evaluated: half of the work of such a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pcs_acceleration.terms import without_negative
from pcs_core import Technique, hookimpl

if TYPE_CHECKING:
    from collections.abc import Generator

    from pcs_core.data import Prediction, Run, SampleStep


class GuidanceInterval(Technique):
    """Leave classifier-free guidance out at noise levels outside of (``low``, ``high``], and late.

    A noise level is sigma / alpha of the latents, the standard deviation of the noise in units of the
    data (section 2; the paper's interval for SDXL is (0.28, 5.42]). Guidance that a recipe adds itself
    is left alone.
    """

    id = "acceleration.guidance_interval"
    neutral = {"low": 0.0, "high": None, "start": 0.0, "stop": 1.0}

    low: Annotated[float, Field(ge=0.0)] = 0.28
    """Noise level at and below which there is no guidance: the last steps."""
    high: Annotated[float, Field(gt=0.0)] | None = 5.42
    """Noise level above which there is none: the first steps. Not given: no upper end."""
    start: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Part of the sampling before which there is none, 0 = pure noise."""
    stop: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Part of the sampling from which on there is none, 1 = the picture."""

    @hookimpl(wrapper=True)
    def sample(
        self, run: Run, step: SampleStep
    ) -> Generator[None, Prediction | None, Prediction | None]:
        """Take the negative branch out of the step's terms."""
        if not self.guides(step):
            step.terms = without_negative(step.terms)
        return (yield)

    def guides(self, step: SampleStep) -> bool:
        """Return whether guidance is on in ``step``."""
        alpha, sigma = float(step.level.alpha[0]), float(step.level.sigma[0])
        # sigma / alpha against a bound, without dividing by an alpha of zero
        inside = self.low * alpha < sigma and (self.high is None or sigma <= self.high * alpha)
        return inside and self.start <= step.progress < max(self.stop, self.start)
