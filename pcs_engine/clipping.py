"""Gradient clipping, each subject by its own norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def clip_per_subject(params: Sequence[tuple[Tensor, bool]], limit: float, subjects: int) -> None:
    """Scale gradients so that each subject's norm is at most ``limit``.

    ``params`` are (parameter, stacked). A global norm would couple the subjects of one batch.
    """
    with_gradient = [(p.grad, stacked) for p, stacked in params if p.grad is not None]
    if not with_gradient:
        return
    if subjects == 1:
        clip_whole([grad for grad, _ in with_gradient], limit)
        return
    parts = [
        grad.float().square().reshape(grad.shape[0], -1).sum(1)
        if stacked
        else grad.float().square().sum().reshape(1).expand(subjects)
        for grad, stacked in with_gradient
    ]
    factor = (limit / (torch.stack(parts).sum(0).sqrt() + 1e-6)).clamp(max=1.0)
    for grad, stacked in with_gradient:
        grad.mul_(factor.view(-1, *[1] * (grad.dim() - 1)) if stacked else factor[0])


def clip_whole(grads: Sequence[Tensor], limit: float) -> None:
    """Scale gradients so that their norm is at most ``limit``, in a few calls for all of them."""
    # norms in fp32, whatever the gradients are in
    norms = torch._foreach_norm(list(grads), 2, dtype=torch.float32)
    factor = (limit / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(list(grads), factor)
