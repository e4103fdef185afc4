"""Steps without gradients: an optimizer tries candidates, and is told how each does on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Phase
    from pcs_engine.phase_loop import PhaseState, Training


class GradientFree(Protocol):
    """What an optimizer has besides torch's interface whose steps take no gradient.

    Its ``state`` is tensors, as of any optimizer: a checkpoint keeps them.
    """

    def search(self, fitness: Callable[[], Tensor], seeds: Sequence[int]) -> None:
        """Make a step: write candidates into the parameters, ask ``fitness`` for each, leave the chosen one.

        ``fitness()`` is the loss [S] of what the parameters are, less is better: of each of S subjects, whose
        slices of the parameters [S ...] are searched apart, each with its own one of ``seeds``. With one
        subject a parameter is searched whole.
        """


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
    parts = [
        training.supply.replay(phase, index, part, state.stops) for part in range(phase.accumulate)
    ]
    tried: list[tuple[float, dict[str, Tensor]]] = []

    def fitness() -> Tensor:
        sums: dict[str, Tensor] = {}
        for make in parts:
            with training.precision.autocast():
                terms = terms_of(make())
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() / len(parts)
        total = torch.stack(list(sums.values())).sum(0)
        tried.append((float(total.sum()), sums))
        return total

    run = training.run
    seeds = [
        run.init_rng(subject, f"search/{phase.name}").initial_seed()
        for subject in range(training.subjects)
    ]
    optimizer: Any = state.optimizer
    optimizer.search(fitness, seeds)
    return min(tried, key=lambda one: one[0])[1]
