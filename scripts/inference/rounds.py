"""Timing: sides take turns in rounds, and what remains of the time is known."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one side, a value per round."""

    values: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """The interquartile range in seconds; from lowest to highest where there are fewer than four."""
        if len(self.values) < 4:
            return max(self.values) - min(self.values)
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return high - low


def interleaved(
    sides: Mapping[str, Callable[[], float]],
    rounds: int,
    warm: int = 1,
    goes_on: Callable[[float], bool] = lambda _: True,
) -> dict[str, Timing]:
    """Return the seconds that each side gives, after ``warm`` untimed turns of each.

    Each round begins with another side, so that none is always the one after a pause. ``goes_on`` is
    asked with a round's seconds before each but the first: False ends it early.
    """
    for _ in range(warm):
        for side in sides.values():
            side()
    names = list(sides)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        begun = time.perf_counter()
        first = number % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(sides[name]())
        if number + 1 < rounds and not goes_on(time.perf_counter() - begun):
            break
    return {name: Timing(tuple(values)) for name, values in times.items()}


def timed(function: Callable[[], Any], device: str = "cpu", calls: int = 1) -> float:
    """Return the seconds of one call, the mean of ``calls``; CUDA is waited for."""
    wait(device)
    begun = time.perf_counter()
    for _ in range(calls):
        function()
    wait(device)
    return (time.perf_counter() - begun) / calls


def wait(device: str) -> None:
    """Wait until ``device`` has done what it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


@dataclass
class Budget:
    """How long the whole may take. Parts that do not fit are left out, and listed."""

    seconds: float
    begun: float = field(default_factory=time.perf_counter)
    skipped: list[dict[str, str]] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds that remain."""
        return self.seconds - (time.perf_counter() - self.begun)

    def allows(self, part: str, seconds: float) -> bool:
        """Return whether ``part``, of about ``seconds``, still fits; note it if not."""
        if self.left >= seconds:
            return True
        self.skip(part, f"{seconds:.0f} s do not fit into the {max(0.0, self.left):.0f} s left")
        return False

    def skip(self, part: str, why: str) -> None:
        """Note that ``part`` was left out, and why."""
        self.skipped.append({"part": part, "why": why})


def ratios(timings: Mapping[str, Timing], base: str) -> dict[str, float]:
    """Return the base's median over each side's: above 1 is faster than the base."""
    return {name: timings[base].seconds / t.seconds for name, t in timings.items()}


def per_round(one: Timing, other: Timing) -> Sequence[float]:
    """Return one / other in each round, which is what slow phases of the machine cancel in."""
    return [a / b for a, b in zip(one.values, other.values, strict=False)]
