"""One training step as techniques see it: the same for a fit and a pre-training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import FitStep, MaskQuery, Masks
from pcs_core.merge import merge_masks
from pcs_engine.beside import evaluate_beside

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.backbone import Attachment
    from pcs_core.data import Batch, Conditioning, Evaluation, Level, Phase
    from pcs_engine.beside import Beside
    from pcs_engine.run import EngineRun


def make_step(
    run: EngineRun,
    net: Attachment,
    phase: Phase,
    index: int,
    batch: Batch,
    *,
    level: Level,
    noise: Tensor,
    cond: Conditioning,
    stop: Callable[..., None],
    beside: Sequence[Beside] = (),
    **more: Callable[..., Any],
) -> FitStep:
    """Return step ``index`` of ``phase``: the batch corrupted, the network asked only when read.

    ``beside`` are rows that stand in the forward and in nothing else of the step.
    """
    process, edits = net.backbone.process, edits_of(phase)
    noisy = process.corrupt(batch.latents, noise, level)

    def evaluate(x: Tensor, at: Any, given: Conditioning, **options: Any) -> Evaluation:
        if (further := run.models.get(options.get("model", "self"))) is not None:
            return further.evaluate(
                x, at, given, **{k: v for k, v in options.items() if k != "model"}
            )
        return net.evaluate(x, at, given, **{"edits": edits, **options})

    def forward() -> Evaluation:
        records = net.fusion.records
        if beside:
            return evaluate_beside(evaluate, noisy, level, cond, beside, record=records)
        return evaluate(noisy, level, cond, record=records)

    return FitStep(
        index=index,
        phase=phase.name,
        batch=batch,
        level=level,
        noise=noise,
        noisy=noisy,
        cond=cond,
        forward=forward,
        compute_target=lambda: process.target(batch.latents, noise, level),
        compute_error=lambda output, target: process.error(output, target, noisy),
        evaluate=evaluate,
        stop=stop,
        read_masks=lambda step: batch_masks(run, step),
        progress=index / phase.steps,
        **more,
    )


def edits_of(phase: Phase) -> str:
    """Return the globs of the uses that act in a phase, as an evaluation takes them."""
    return ",".join(phase.edits)


def sample_timesteps(
    net: Attachment,
    phase: Phase,
    rngs: Sequence[Generator],
    noise: Tensor,
    times: Tensor,
    progress: float,
) -> tuple[Tensor, Tensor]:
    """Return noise and times of the fusion's timestep sampler, each subject's from its own generator.

    The sampler acts where the edits of its use do.
    """
    sampler = net.fusion.timestep_sampler
    owner = net.fusion.origin.get("timestep_sampler", "")
    if sampler is None or not any(fnmatchcase(owner, glob) for glob in phase.edits):
        return noise, times
    each = len(noise) // len(rngs)
    levels, noises = [], []
    for i, rng in enumerate(rngs):
        rows = slice(i * each, (i + 1) * each)
        fraction, drawn = sampler(rng, tuple(noise[rows].shape), progress)
        process = net.backbone.process
        levels.append(times[rows] if fraction is None else process.at(fraction).to(times))
        noises.append(noise[rows] if drawn is None else drawn.to(noise))
    return torch.cat(noises), torch.cat(levels)


def batch_masks(run: EngineRun, step: FitStep) -> Masks:
    """Ask the mask techniques about a batch; the examples' own masks count too."""
    results = run.call_at(
        "mask",
        lambda technique, _: "batch" in technique.mask_moments,
        query=MaskQuery(moment="batch", step=step, size=tuple(step.noisy.shape[-2:])),  # type: ignore[arg-type]
    )
    return merge_masks([Masks(step.batch.masks), *(m for _, m in results)])
