"""One denoiser evaluation as the sample loop makes it: words and references were encoded before."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import torch

from pcs_core.backbone import Attachment, suspended
from pcs_core.data import Branch, SampleSettings
from pcs_core.data.conditioning import concatenate
from pcs_engine.guidance import Guidance
from pcs_engine.restoring import restored
from pcs_engine.strengths import part_strengths, read_numbers

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization

MIDDLE = 0.5


class Step:
    """A personalization attached to a backbone, half-way through its sampling.

    Use as a context manager: a network holds one attachment at a time. Calling it returns the native
    output [2 * pictures c h w]; the negative branch comes first. ``restore_seconds`` is what making the
    artifact's edits took, or finding those of the last time, ``bind_seconds`` binding them,
    ``encode_seconds`` its words and image tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        artifact: Personalization,
        prompt: str,
        pictures: int,
        *,
        strengths: Mapping[str, float] | None = None,
        scale: float = 3.0,
        steps: int = 20,
        seed: int = 0,
    ) -> None:
        self.backbone, self.artifact, self.prompt, self.pictures = (
            backbone,
            artifact,
            prompt,
            pictures,
        )
        self.strengths = dict(strengths or {})
        self.settings = SampleSettings(steps=steps, scale=scale)
        self.seed = seed
        self._stack = ExitStack()

    @torch.no_grad()
    def __enter__(self) -> Self:
        begun = time.perf_counter()
        self._stack = ExitStack()
        self._stack.enter_context(suspended(self.backbone))
        uses = () if self.artifact is None else self.artifact.recipe.uses
        weights, numbers = part_strengths(self.strengths, uses)
        run, fusion = self._stack.enter_context(
            restored(self.artifact, self.backbone, self.seed, (), weights)
        )
        run.strengths = read_numbers(numbers, fusion)
        self.restore_seconds = time.perf_counter() - begun
        self.net = self._stack.enter_context(Attachment(self.backbone, fusion))
        self.bind_seconds = time.perf_counter() - begun - self.restore_seconds
        texts = [self.prompt] * self.pictures
        begun = time.perf_counter()
        guide = Guidance(run, self.net, texts, self.settings)
        sampler = self.backbone.sampler(self.settings.scheduler, self.settings.steps)
        level = sampler.level(int(MIDDLE * self.settings.steps), self.pictures)
        negative, positive = Branch("negative", drop=("*",)), Branch("positive")
        self.cond = concatenate(tuple(guide.branch(b, level, MIDDLE) for b in (negative, positive)))
        self.encode_seconds = time.perf_counter() - begun
        self.level = type(level)(*(t.repeat(2) for t in level))
        rng = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.pictures, *self.backbone.latent_shape, generator=rng)
        self.latents = noise.repeat(2, *[1] * (noise.dim() - 1)).to(self.backbone.device)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def strengthen(self, strengths: Mapping[str, float]) -> None:
        """Take other strengths while attached, as the next run of the loop would."""
        rows = self.net.strengths(self.latents.shape[0], strengths)
        self.cond = self.cond.with_(extra={**self.cond.extra, **rows})

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Evaluate the network once."""
        output: Tensor = self.net.evaluate(
            self.latents, self.level, self.cond, progress=MIDDLE
        ).output
        return output


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest wanted value."""
    actual, expected = actual.double().cpu(), expected.double().cpu()
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def largest_gap(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest :func:`relative_error` of several outputs."""
    return max(relative_error(a, b) for a, b in zip(actual, expected, strict=True))
