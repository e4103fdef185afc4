"""How many floating-point operations a call takes, counted and not timed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Callable


class _Whole:
    """In place of the tracker of modules, which sets hooks for gradients even where there are none."""

    parents = ("Global",)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def flops_of(function: Callable[[], object]) -> int:
    """Return the FLOP of one call on torch, attention included."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Whole()  # type: ignore[assignment]
    # the fused kernels of a CPU are not counted, the plain form is
    with counter, sdpa_kernel(SDPBackend.MATH):
        function()
    return int(counter.get_total_flops())
