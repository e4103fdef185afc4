"""Start noise that knows the reference, or is alike over frames.

Part of the noise is the reference's own, found by DDIM inversion (MotionDirector, arXiv:2310.08465,
section 3.3); noise shared between frames (LAMP, arXiv:2310.10769), or falling off with their distance
(Magic-Me, arXiv:2402.09368).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Features
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Prediction, Run, SampleStep, Subject

NOISE = "noise_prior.inverted"


class NoisePrior(Technique):
    """Mix the first latents of a sampling before its first step. Trains nothing."""

    id = "video.noise_prior"
    reads = ("role:subject",)
    writes = ("feature:noise_prior.inverted",)
    catalogue = ("noise-prior", "ddim-inversion")
    neutral = {"inverted": 0.0, "correlation": 0.0}
    tiny = {"steps": 2}

    inverted: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Share (of the variance) of the first reference's own noise; 0 inverts nothing."""
    correlation: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Correlation of the rest between frames."""
    over: Literal["all", "distance"] = "all"
    """"all": the same between any two frames. "distance": to the power of their distance."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Inversion steps."""
    prompt: str = "{noun}"
    """Prompt of the inversion; ``{noun}`` is the subject's noun. MotionDirector's code inverts without any."""

    def implements(self) -> tuple[str, ...]:
        """Return what the settings make of it: nothing is inverted where ``inverted`` is 0."""
        return self.catalogue if self.inverted > 0 else ("noise-prior",)

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Invert the first reference and keep where it ends."""
        shown = [e for e in run.features.examples if e.role == "subject"]
        if moment != "start" or not self.inverted or not shown:
            return None
        noun = subject.concepts[0].noun if subject.concepts else ""
        run.log(f"inverting a reference of {subject.name!r} in {self.steps} steps")
        trajectory = run.invert(
            shown[0].image, self.prompt.replace("{noun}", noun), steps=self.steps
        )
        return Features(tensors={NOISE: trajectory[-1].cpu()}, keep=(NOISE,))

    @hookimpl(wrapper=True)
    def sample(self, run: Run, step: SampleStep) -> Generator[None, Prediction, Prediction]:
        """Change the latents before the first step, and only then."""
        if step.index == 0:
            step.latents = self._mixed(run, step.latents)
        return (yield)

    def _mixed(self, run: Run, noise: Tensor) -> Tensor:
        if self.correlation:
            if noise.dim() != 5:
                raise CapabilityError(f"{self.id}: correlation is between frames of clips")
            noise = correlated(noise, self.correlation, over_distance=self.over == "distance")
        reference = run.features.tensors.get(NOISE)
        if reference is None or not self.inverted:
            return noise
        reference = reference[0].to(noise)
        if reference.shape != noise.shape[1:]:
            raise CapabilityError(
                f"{self.id}: the reference has latents {tuple(reference.shape)}, what is drawn "
                f"{tuple(noise.shape[1:])}: give a clip"
            )
        return self.inverted**0.5 * reference + (1 - self.inverted) ** 0.5 * noise


def correlated(noise: Tensor, correlation: float, *, over_distance: bool) -> Tensor:
    """Return unit noise [b c t h w] with ``correlation`` between its frames, from independent one.

    The frames are multiplied by a root of the covariance, so that no further noise is drawn and every
    frame keeps unit variance.
    """
    frames = torch.arange(noise.shape[2], device=noise.device)
    distance = (frames[:, None] - frames[None]).abs().double()
    covariance = correlation ** (distance if over_distance else distance.clamp(max=1))
    root = torch.linalg.cholesky(covariance).to(noise)
    return torch.einsum("st,bcthw->bcshw", root, noise)
