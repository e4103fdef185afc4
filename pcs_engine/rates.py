"""Learning rates over a phase: rise, hold, fall to a floor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from pcs_core.data import Phase


def rate_factor(phase: Phase, index: int) -> float:
    """Return what the learning rates are multiplied by in step ``index`` (from 0) of ``phase``.

    The rise is linear over ``warmup`` steps, its last one at the full rate. The fall takes the share
    ``decay`` of the steps at the end; without it, ``schedule`` "linear" and "cosine" fall over all that
    follows the rise, and "constant" does not fall. With u the share of the fall that is still ahead
    (1 at its first step), a linear fall is at u and a cosine one at (1 - cos(pi u)) / 2, both scaled to
    end at ``floor``.
    """
    # diffusers' get_scheduler ("linear", "cosine", num_cycles=0.5) has the same fall, u = (N - i) / (N - w);
    # its rise is i / w, so that its first step learns nothing, and its trainers count a step once per process
    rise = min(1.0, (index + 1) / phase.warmup) if phase.warmup else 1.0
    falling = phase.decay * phase.steps
    if phase.schedule != "constant" and not falling:
        falling = max(1, phase.steps - phase.warmup)
    ahead = min(1.0, (phase.steps - index) / falling) if falling else 1.0
    if phase.schedule == "cosine":
        ahead = (1.0 - math.cos(math.pi * ahead)) / 2.0
    return rise * (phase.floor + (1.0 - phase.floor) * ahead)


def set_rates(optimizer: torch.optim.Optimizer, phase: Phase, index: int) -> None:
    """Set the learning rate of each group for step ``index`` of ``phase``."""
    factor = rate_factor(phase, index)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
