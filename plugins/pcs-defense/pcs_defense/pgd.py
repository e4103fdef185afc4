"""Projected gradient descent with sign steps (PGD, arXiv:1706.06083, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class ProjectedSign(torch.optim.Optimizer):
    """Step by ``lr`` against the sign of the gradient, then project onto the box [-1, 1].

    Parameters that live in another box are scaled by their owner: a perturbation is its bound times
    such a parameter. An element without gradient stays. ``weight_decay`` is refused: the projection
    is the only bound.

    Raises
    ------
    ValueError
        The rate is not positive, or there is a weight decay.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 0.1, *, weight_decay: float = 0.0
    ) -> None:
        if lr <= 0:
            raise ValueError(f"lr must be positive, got {lr}")
        if weight_decay:
            raise ValueError("pgd takes no weight_decay: leave it out of the phase")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step; return what ``closure`` gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.sub_(group["lr"] * param.grad.sign()).clamp_(-1.0, 1.0)
        return loss
