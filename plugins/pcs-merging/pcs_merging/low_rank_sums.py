"""Sums of low-rank updates of one layer as one: of concatenated ranks, or of fewer by singular values.

The sum of s_i B_i A_i is [s_1 B_1 ... s_n B_n] [A_1; ...; A_n], exactly (peft's "cat"). Of fewer ranks the best
there is keeps the largest singular values (Eckart and Young, 1936).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

Factors = tuple["Tensor", "Tensor"]
"""down [r in], up [out r], the scale multiplied into it."""


def joined(factors: Sequence[Factors]) -> Factors:
    """Return the sum of updates of one layer, its rank the sum of theirs."""
    downs, ups = zip(*factors, strict=True)
    return torch.cat(downs, dim=0), torch.cat(ups, dim=1)


def of_rank(factors: Factors, rank: int) -> tuple[Factors, float, float]:
    """Return the nearest update of at most ``rank``, and the squared Frobenius norms of its error and of all.

    Solved in fp64 from the factors' triangular parts, so that no matrix of the layer's size is made.
    """
    down, up = (t.double() for t in factors)
    left, inner = torch.linalg.qr(up)
    right, outer = torch.linalg.qr(down.T)
    u, values, v = torch.linalg.svd(inner @ outer.T)
    squares = values.square()
    root = values[:rank].sqrt()
    near = (root[:, None] * v[:rank] @ right.T, left @ u[:, :rank] * root)
    near_down, near_up = (t.to(factors[0].dtype).contiguous() for t in near)
    return (near_down, near_up), float(squares[rank:].sum()), float(squares.sum())
