"""Steps without gradients: an optimizer tries candidates, and is told how each does on the same rows.

Such an optimizer has, besides torch's interface, ``search(fitness, seeds)``: it writes candidates into its
parameters, asks ``fitness()`` for the loss [S] of each, less is better, and leaves the one that it chooses. Of
S subjects the slices of the parameters [S ...] are searched apart, each with its own one of ``seeds``; with one
subject a parameter is searched whole. Its ``state`` is tensors, as of any optimizer: a checkpoint keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Phase
    from pcs_engine.phase_loop import PhaseState, Training


def search(
    training: Training,
    phase: Phase,
    index: int,
    state: PhaseState,
    terms_of: Callable[[FitStep], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Take one step of a gradient-free optimizer; return the terms [S] of the best candidate.

    All candidates of a step see the same rows, noise and noise levels, and each has its texts read anew.
    """
    supply, run = training.supply, training.run
    parts = [supply.replay(phase, index, part, state.stops) for part in range(phase.accumulate)]
    tried: list[tuple[float, dict[str, Tensor]]] = []

    def fitness() -> Tensor:
        sums: dict[str, Tensor] = {}
        for make in parts:
            with training.precision.autocast():
                terms = terms_of(make())
            sums |= {n: sums.get(n, 0) + t.detach() / len(parts) for n, t in terms.items()}
        total = torch.stack(list(sums.values())).sum(0)
        tried.append((float(total.sum()), sums))
        return total

    rngs = [run.init_rng(s, f"search/{phase.name}") for s in range(training.subjects)]
    state.optimizer.search(fitness, [rng.initial_seed() for rng in rngs])  # type: ignore[attr-defined]
    return min(tried, key=lambda one: one[0] if isfinite(one[0]) else inf)[1]
