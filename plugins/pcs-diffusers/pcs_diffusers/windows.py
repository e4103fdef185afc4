"""Windows of a longer text: a text encoder reads each as a row of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def as_rows(ids: Tensor, length: int) -> Tensor:
    """Return ids [b k*length] of k windows as rows [b*k length]."""
    return ids if ids.shape[1] == length else ids.reshape(-1, length)


def side_by_side(states: Tensor, ids: Tensor) -> Tensor:
    """Return what an encoder says of windows [b*k l d] as texts [b k*l d], for ids [b k*l]."""
    if states.shape[1] == ids.shape[1]:
        return states
    return states.reshape(ids.shape[0], -1, states.shape[-1])


def of_first(pooled: Tensor, states: Tensor, ids: Tensor) -> Tensor:
    """Return the pooled states [b d] of each text's first window, from those of all [b*k d]."""
    count = ids.shape[1] // states.shape[1]
    return pooled if count == 1 else pooled[::count]
