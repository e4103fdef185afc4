"""Subjects that asked to be trained no further in a phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


class Stops:
    """Which of ``count`` subjects are still trained in one phase.

    A subject that asks in a step still learns from that step, and has no row from the next on. Its slices
    of stacked tensors [S ...] are put back after every step: an optimizer with momentum moves what has no
    gradient.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.after: dict[int, int] = {}
        """Steps that each stopped subject was trained for."""
        self._asked: set[int] = set()
        self._slices: list[tuple[Tensor, int, Tensor]] = []

    def ask(self, subject: int | None = None) -> None:
        """Stop ``subject`` after this step (None: all of them).

        Raises
        ------
        InputError
            There is no such subject.
        """
        if subject is not None and not 0 <= subject < self.count:
            raise InputError(f"step.stop({subject}): the subjects are 0 to {self.count - 1}")
        self._asked |= set(range(self.count)) if subject is None else {subject}

    @property
    def live(self) -> tuple[int, ...]:
        """The subjects that are trained."""
        return tuple(s for s in range(self.count) if s not in self.after)

    @torch.no_grad()
    def settle(self, step: int, stacked: Iterable[Tensor]) -> None:
        """Put stopped subjects back after ``step`` steps, and take note of those that asked in it."""
        for tensor, subject, value in self._slices:
            tensor[subject] = value
        new = sorted(self._asked - set(self.after))
        self._asked.clear()
        self.after |= dict.fromkeys(new, step)
        self._hold(new, stacked)

    def _hold(self, subjects: Iterable[int], stacked: Iterable[Tensor]) -> None:
        tensors = list(stacked)
        self._slices += [
            (tensor, s, tensor[s].detach().clone()) for s in subjects for tensor in tensors
        ]

    def state(self) -> dict[str, int]:
        """Return what a checkpoint keeps of it."""
        return {str(subject): step for subject, step in self.after.items()}

    def restore(self, state: Mapping[str, Any], stacked: Iterable[Tensor]) -> None:
        """Put back what :meth:`state` gave; the stacked tensors are those of that moment."""
        self.after = {int(subject): int(step) for subject, step in state.items()}
        self._hold(self.after, stacked)
