"""Memory of a training is given back when it ends, and what stays ready for a drawing is bounded in bytes."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcs_core.data import Fusion

MUCH = 2**26
"""Bytes of edits from which on it is worth a look for circles, which takes a tenth of a second."""


def size_of(fusion: Fusion) -> int:
    """Return the bytes of all that the edits of ``fusion`` own."""
    tensors = (t for edit in fusion.edits for t in edit.owned().values())
    return sum(t.numel() * t.element_size() for t in tensors)


def free_circles(size: int) -> None:
    """Let Python look for objects that only name each other, where they hold ``size`` bytes and that is much.

    The parts of a training do: its hooks, its network with edits and its rows. Python looks for such circles
    when it has made many objects, not when it has taken much memory, and a device may be full by then.
    """
    if size >= MUCH:
        gc.collect()
