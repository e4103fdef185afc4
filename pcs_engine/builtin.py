"""The two implementations every run has: the reconstruction loss and the guided prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique

if TYPE_CHECKING:
    from pcs_core.data import FitStep, Loss, Prediction, SampleStep


class CoreDenoise(Technique):
    """Reconstruction of the subject's rows, and classifier-free guidance (arXiv:2207.12598)."""

    id = "core.denoise"

    @hookimpl(trylast=True)
    def regularize(self, step: FitStep) -> Loss | None:
        """Return ``error`` times the mask "loss", mean over elements, for rows of role "subject"."""
        from pcs_core.data import LOSS, Loss

        rows = step.batch.rows("subject")
        error = step.error
        mask = step.masks.get(LOSS)
        if mask is not None:
            # a mask [b 1 h w] holds for every frame of a clip
            error = error * (mask[:, :, None] if error.dim() > mask.dim() else mask)
        return Loss("core.denoise", error.mean(dim=tuple(range(1, error.dim()))), rows=rows)

    @hookimpl(trylast=True)
    def sample(self, step: SampleStep) -> Prediction | None:
        """Return the guided x0 of the step's latents."""
        from pcs_core.data import Prediction

        return Prediction(step.predict(step.latents))
