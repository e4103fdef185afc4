"""Parameters stacked over subjects: each row of a batch reads its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def gather(stacked: Tensor, subject: Tensor | None) -> Tensor:
    """Return the rows' own parameters [b ...] from ``stacked`` [S ...]; a single subject broadcasts.

    Raises
    ------
    ValueError
        Several subjects, and no subject index in the conditioning.
    """
    if stacked.shape[0] == 1:
        return stacked
    if subject is None:
        raise ValueError("parameters of several subjects need the rows' subject index")
    return stacked[subject]


def batched_linear(x: Tensor, weight: Tensor, subject: Tensor | None) -> Tensor:
    """Return x W^T for x [b n in] and stacked ``weight`` [S out in], each row with its subject's W."""
    if weight.shape[0] == 1:
        return F.linear(x, weight[0])
    weights = gather(weight, subject)
    if weights.shape[0] != x.shape[0]:  # frames or views folded into the batch
        weights = weights.repeat_interleave(x.shape[0] // weights.shape[0], dim=0)
    return torch.bmm(x, weights.transpose(1, 2))
