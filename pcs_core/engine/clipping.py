"""Gradient clipping, each subject by its own norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def clip_per_subject(params: Sequence[tuple[Tensor, bool]], limit: float, subjects: int) -> None:
    """Scale gradients so that each subject's norm is at most ``limit``.

    ``params`` are (parameter, stacked). A global norm would couple the subjects of one batch.
    """
    squares = None
    for param, stacked in params:
        if param.grad is None:
            continue
        grad = param.grad.float().square()
        part = (
            grad.reshape(grad.shape[0], -1).sum(1)
            if stacked
            else grad.sum().reshape(1).expand(subjects)
        )
        squares = part if squares is None else squares + part
    if squares is None:
        return
    factor = (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for param, stacked in params:
        if param.grad is not None:
            shape = (-1, *[1] * (param.dim() - 1))
            param.grad.mul_(factor.view(shape) if stacked else factor[0])
