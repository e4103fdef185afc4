"""Moving averages of what trains in a phase, given to it at the phase's end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "average/"


class Averages:
    """The exponential moving average of ``params`` with ``decay`` (0: none is kept).

    After update n = 1, 2, ... the average is d a + (1 - d) p with d = min(decay, n / (9 + n)): the first
    values, which are far from where the phase ends, are soon forgotten. It begins at the values of the
    phase's beginning. diffusers' EMAModel has the same d from its second update on; its first copies p.
    """

    def __init__(self, params: Mapping[str, nn.Parameter], decay: float) -> None:
        self.params, self.decay, self.updates = params, decay, 0
        self.values: dict[str, Tensor] = {}
        if decay:
            self.values = {name: p.detach().clone() for name, p in params.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters of a step in."""
        if not self.decay:
            return
        self.updates += 1
        weight = 1.0 - min(self.decay, self.updates / (9.0 + self.updates))
        trained = [self.params[name].detach() for name in self.values]
        torch._foreach_lerp_(list(self.values.values()), trained, weight)

    @torch.no_grad()
    def give(self) -> None:
        """Put the averages in place of the parameters, for good."""
        for name, value in self.values.items():
            self.params[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages in place of the parameters, for the duration."""
        trained = {name: self.params[name].detach().clone() for name in self.values}
        self.give()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in trained.items():
                    self.params[name].copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages by ``"average/<parameter>"``, on the CPU."""
        return {f"{PREFIX}{name}": value.cpu().clone() for name, value in self.values.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Put back what :meth:`tensors` gave after ``updates`` updates."""
        for name, value in self.values.items():
            if f"{PREFIX}{name}" in tensors:
                value.copy_(tensors[f"{PREFIX}{name}"])
        self.updates = updates
