"""How far a run is, and how long it will take, on stderr."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from pcs_bench.run.plan import BASELINES, Job
from pcs_cli import notice

EVERY = 10.0
"""Seconds between two lines while nothing ends."""


@dataclass
class Meter:
    """Counts cells and times jobs. ``workers`` of them run at once."""

    cells: int
    jobs: list[Job]
    workers: int = 1
    done: int = 0
    failed: int = 0
    kept: int = 0
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    finished: set[Job] = field(default_factory=set)
    said: float = 0.0

    def cell(self, *, state: str) -> None:
        """Count a cell: "done", "failed" or "kept"."""
        self.done += 1
        self.failed += state == "failed"
        self.kept += state == "kept"
        if time.monotonic() - self.said >= EVERY:
            self.say()

    def job(self, job: Job, seconds: float, *, worked: bool) -> None:
        """Note that a job ended. One that had nothing to do says nothing about the others."""
        self.finished.add(job)
        if worked:
            self.seconds[job.system].append(seconds)
            self.say(f"{job.system} on {job.subject}: {seconds:.0f} s")

    def left(self) -> float | None:
        """Return the seconds left, None while nothing is known.

        A job takes as long as those of its system did, one of an unseen system as the mean of systems.
        """
        means = {s: sum(v) / len(v) for s, v in self.seconds.items()}
        fitted = [mean for system, mean in means.items() if system not in BASELINES]
        known = fitted or list(means.values())
        if not known:
            return None
        other = sum(known) / len(known)
        remaining = [j for j in self.jobs if j not in self.finished]
        return sum(means.get(j.system, other) for j in remaining) / self.workers

    def say(self, what: str = "") -> None:
        """Print one line."""
        self.said = time.monotonic()
        left = self.left()
        parts = [f"{self.done}/{self.cells} cells"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if left is not None and self.done < self.cells:
            parts.append(f"about {span(left)} left")
        if what:
            parts.append(what)
        notice(", ".join(parts))


def span(seconds: float) -> str:
    """Return a length of time in words: ``"40 s"``, ``"12 min"``, ``"3 h 5 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
