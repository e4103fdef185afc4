"""How far a fit or a drawing is, on stderr."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pcs_cli.output import notice, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from pcs_engine import Progress, SampleProgress

PLAIN_EVERY = 10.0
"""Seconds between two lines where stderr is no terminal."""


@dataclass
class Reporter:
    """Shows what the engine tells. On a terminal a bar, else a line now and then."""

    console: Console
    bar: Bar | None
    task: Any = None
    last: float = field(default_factory=time.monotonic)
    phase: str = ""
    first: tuple[float, int] | None = None

    def fitting(self, progress: Progress) -> None:
        """Show a step of a fit; a ``watch`` of :func:`pcs_engine.fit`."""
        losses = "  ".join(f"{name} {_number(value)}" for name, value in progress.losses.items())
        self._show(progress.done, progress.total, progress.phase, losses)

    def drawing(self, progress: SampleProgress) -> None:
        """Show a step of a drawing; a ``watch`` of :func:`pcs_engine.sample`."""
        self._show(progress.done, progress.total, "drawing", "")

    def _show(self, done: int, total: int, phase: str, losses: str) -> None:
        if self.bar is not None:
            phase, losses = printable(phase), printable(losses)
            self.bar.update(
                self.task, completed=done, total=total, description=phase, losses=losses
            )
            return
        now = time.monotonic()
        # measured here: a resumed fit begins in the middle, and subjects may follow each other
        self.first = self.first or (now, done)
        if phase == self.phase and now - self.last < PLAIN_EVERY and done < total:
            return
        self.last, self.phase = now, phase
        if losses:
            begun, before = self.first
            left = (now - begun) / (done - before) * (total - done) if done > before else math.nan
            remaining = f"  about {left:.0f} s left" if 0 < left < math.inf else ""
            notice(f"{phase}: step {done}/{total}  {losses}{remaining}")


@contextmanager
def reporting(start: str) -> Iterator[Reporter]:
    """Show progress on stderr for the duration, and what techniques log."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, emoji=False)  # what users write stays as it is
    bar = _bar(console) if console.is_terminal else None
    reporter = Reporter(console, bar)
    with _logged(console):
        if bar is None:
            yield reporter
            return
        with bar:
            reporter.task = bar.add_task(start, total=None, losses="")
            yield reporter


def _bar(console: Console) -> Bar:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


@contextmanager
def _logged(console: Console) -> Iterator[None]:
    logger = logging.getLogger("pcs")
    handler = _Handler(console)
    level, propagate, others = logger.level, logger.propagate, logger.handlers
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.handlers = others
        logger.setLevel(level)
        logger.propagate = propagate


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):  # nobody can read it: work goes on
            # a name is not broken over lines: it is searched for
            self.console.print(printable(record.getMessage()), markup=False, soft_wrap=True)


def _number(value: float) -> str:
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.2e}"
