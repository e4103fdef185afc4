"""What a training tells its watchers, and how often: reading a loss waits for the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Phase

REPORT_EVERY = 10
"""Steps between two readings of the losses: reading them waits for the device."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What ``watch`` sees. ``losses`` are means over subjects of the last reading, by term."""

    phase: str
    index: int
    steps: int
    done: int
    total: int
    losses: Mapping[str, float]
    seconds: float
    subjects: tuple[str, ...] = ()


@dataclass
class Reporter:
    """Reads the losses now and then and tells the watchers.

    ``total`` steps of one training, of which ``done`` are over; ``offset`` of ``groups`` trainings were
    before it. ``losses`` are the last reading, a number per subject.
    """

    watch: Sequence[Callable[[Progress], None]]
    total: int
    subjects: tuple[str, ...] = ()
    offset: int = 0
    groups: int = 1
    done: int = 0
    losses: dict[str, list[float]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def due(self, index: int, last: bool) -> bool:
        """Return whether the losses are read after step ``index`` of a phase."""
        return (index + 1) % REPORT_EVERY == 0 or last

    def report(self, phase: Phase, index: int, terms: Mapping[str, Tensor]) -> None:
        """Read the terms [S] in one transfer, and tell the watchers."""
        rows = torch.stack([value.detach() for value in terms.values()]).tolist()
        self.losses = dict(zip(terms, rows, strict=True))
        progress = Progress(
            phase=phase.name,
            index=index + 1,
            steps=phase.steps,
            done=self.offset * self.total + self.done,
            total=self.groups * self.total,
            losses={name: sum(values) / len(values) for name, values in self.losses.items()},
            seconds=time.monotonic() - self.started,
            subjects=self.subjects,
        )
        for function in self.watch:
            function(progress)
