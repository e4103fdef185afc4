"""A weight that each fit rewrites in its own way: the rows of each pass the layer with their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from pcs_core.data import WeightEdit
from pcs_core.edits.module import with_weight

if TYPE_CHECKING:
    from pcs_core.data import Conditioning


class Runs:
    """Rows of one subject that stand one behind the other, read from the device once for all layers."""

    def __init__(self) -> None:
        self._subject: Tensor | None = None
        self._runs: list[tuple[int, int, int]] = []

    def of(self, subject: Tensor) -> list[tuple[int, int, int]]:
        """Return (subject, first row, row behind the last) of each run of ``subject`` [b]."""
        if subject is not self._subject:
            runs: list[tuple[int, int, int]] = []
            for row, one in enumerate(subject.tolist()):
                if runs and runs[-1][0] == one:
                    runs[-1] = (one, runs[-1][1], row + 1)
                else:
                    runs.append((one, row, row + 1))
            self._subject, self._runs = subject, runs
        return self._runs


class EachWeight(WeightEdit):
    """The edits of one layer's weight by several fits, which keep their own: none is a part of this one."""

    def __init__(self, edits: Sequence[WeightEdit], module: nn.Module, runs: Runs) -> None:
        first = edits[0]
        super().__init__(first.site, start=first.start, stop=first.stop, mode=first.mode)
        self.name = first.name
        # beside the tree of modules: what the fits own is theirs
        self.__dict__.update(edits=tuple(edits), module=module, runs=runs)

    def train(self, mode: bool = True) -> Self:
        """Let the fits' edits be in the same mode."""
        for edit in self.__dict__.get("edits", ()):
            edit.train(mode)
        return super().train(mode)

    def call(
        self, layer: Callable[[Tensor], Tensor], x: Tensor, cond: Conditioning | None
    ) -> Tensor:
        """Return what the layer makes of ``x`` [b ...] with each row's own weight."""
        edits: tuple[WeightEdit, ...] = self.__dict__["edits"]
        module: Any = self.__dict__["module"]
        if cond is None or cond.subject is None:
            return layer(x)
        folded = x.shape[0] // len(cond.subject)  # frames in the batch
        parts = [
            with_weight(module, edits[one].weight(module.weight), x[a * folded : b * folded])
            for one, a, b in self.__dict__["runs"].of(cond.subject)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
