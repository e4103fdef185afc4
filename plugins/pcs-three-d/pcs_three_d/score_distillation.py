"""A frozen denoiser's judgement of noised renders, pushed into them (DreamFusion, arXiv:2209.14988)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import RENDERED, Fusion, Loss

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.data import FitStep

Range = Annotated[tuple[float, float], Field(min_length=2, max_length=2)]


class ScoreDistillation(Technique):
    """Push w(t) (eps_hat - eps) into rendered latents; the denoiser's own Jacobian is left out.

    ``eps_hat`` is guided: two evaluations without gradients, with the caption and without. Use it in a
    phase whose batch is ``{ rendered = n }`` in place of "core.denoise". Its range of noise levels acts
    in phases whose ``edits`` name this use.
    """

    id = "three_d.score_distillation"
    tiny_beside = {"three_d.renderable": {}}
    reads = ("role:rendered",)
    takes_clips = False
    catalogue = ("score-distillation",)
    neutral = {"weight": 0.0}

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the gradient."""
    scale: Annotated[float, Field(ge=0.0)] = 100.0
    """Guidance scale s in eps_hat = eps_0 + s (eps_c - eps_0)."""
    rescale: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Share of the guided x0 that gets the spread of the unguided one (arXiv:2305.08891, 3.4)."""
    levels: Range = (0.02, 0.98)
    """Least and most noise level t."""
    levels_end: Range | None = None
    """The range at the end of the phase, reached linearly; the same when not given."""
    weighting: Literal["sigma2", "one", "x0"] = "sigma2"
    """w(t): sigma^2, 1, or what makes it the gradient of half the squared distance to x0."""
    negative: str = ""
    """Prompt of the evaluation without the caption."""

    @hookimpl
    def fuse(self) -> Fusion | None:
        """Draw noise levels from ``levels``."""
        return Fusion(timestep_sampler=self.draw_levels) if self.weight else None

    def draw_levels(
        self, rng: Generator, shape: tuple[int, ...], progress: float
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return noise levels [b], uniform in the range of this ``progress``, and no noise."""
        end = self.levels if self.levels_end is None else self.levels_end
        low, high = (a + (b - a) * progress for a, b in zip(self.levels, end, strict=True))
        return low + (high - low) * torch.rand(shape[0], generator=rng), None

    @hookimpl
    def regularize(self, step: FitStep) -> Loss | None:
        """Return a term of rendered rows whose gradient is the one wanted; its value is half its square."""
        rows = step.batch.rows(RENDERED)
        if not self.weight or not bool(rows.any()):
            return None
        latents = step.batch.latents.float()
        gradient = self.gradient(step)
        inner = (gradient * latents).sum(dim=(1, 2, 3))
        value = 0.5 * gradient.square().sum(dim=(1, 2, 3)) + inner - inner.detach()
        return Loss("three_d.score_distillation", value, weight=self.weight, rows=rows)

    @torch.no_grad()
    def gradient(self, step: FitStep) -> Tensor:
        """Return w(t) (eps_hat - eps) [b c h w], fp32.

        Both noises stand in the same noisy latents, so eps_hat - eps = alpha / sigma (x - x0_hat): for
        x0_hat = x it is zero exactly.
        """
        latents = step.batch.latents.detach().float()
        noisy = step.noisy.detach()
        conditional = step.evaluate(noisy, step.level, step.cond).x0
        unconditional = step.evaluate(noisy, step.level, step.encode(self.negative)).x0
        guided = unconditional + self.scale * (conditional - unconditional)
        if self.rescale:
            axes = tuple(range(1, guided.dim()))
            spread = conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp_min(
                1e-8
            )
            guided = guided * (1 + self.rescale * (spread - 1))
        alpha, sigma = step.level.like(latents)
        factor = {
            "sigma2": alpha * sigma,
            "one": alpha / sigma,
            "x0": torch.ones_like(alpha),
        }[self.weighting]
        return factor * (latents - guided)
