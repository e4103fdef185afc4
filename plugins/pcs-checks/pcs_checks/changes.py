"""Counting which tensors of a network changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def snapshot(backbone: Any) -> dict[str, Tensor]:
    """Return copies of all tensors of all parts, by ``"<part>/<name>"``."""
    return {
        f"{part}/{name}": tensor.detach().clone()
        for part, module in backbone.parts.items()
        for name, tensor in module.state_dict().items()
    }


def changed(before: Mapping[str, Tensor], backbone: Any) -> int:
    """Return how many tensors differ, by a bit, from ``before``, appeared or disappeared."""
    after = snapshot(backbone)
    different = sum(not after[k].equal(v) for k, v in before.items() if k in after)
    return different + len(set(before) ^ set(after))
