"""Edits of one weighted layer: its weight, its call, or what is added to its output."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from pcs_core.edits.module import ModuleEdit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from pcs_core.data.conditioning import Conditioning


class WeightEdit(ModuleEdit):
    """An edit of one weighted layer: weight -> call -> residual."""

    STAGES = ("weight", "call", "residual")
    LISTED: ClassVar[int] = 20

    def exclusive(self) -> Iterable[tuple[str, str]]:
        """Return the layer, where its weight or its call can be one edit's alone."""
        return [(str(self.site), self.stage())] if self.stage() in {"weight", "call"} else ()

    def weight(self, weight: Tensor) -> Tensor:
        """Return W' = f(W). Exclusive per layer."""
        return weight

    def call(
        self, layer: Callable[[Tensor], Tensor], x: Tensor, cond: Conditioning | None
    ) -> Tensor:
        """Wrap the layer, whatever else it is given beside ``x``. Exclusive per layer.

        At an attention or block site it is the whole module: a block may give a tuple.
        """
        return layer(x)

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return what is added to the layer's output: g(x) or g(y)."""
        return torch.zeros_like(y)

    def low_rank(self) -> tuple[Tensor, Tensor, float] | None:
        """Return down [r in*], up [out r] and scale of what the first subject's edit adds to the weight.

        That is scale * up @ down, with the inputs of a convolution's kernel in one axis; None where what it
        does is no such product. Exports and merges of low-rank updates go by it.
        """
        return None
