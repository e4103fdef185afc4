"""Time what the project promises: cheap hooks, several subjects in one forward. Prints a table.

Uses the tiny random backbone, so that it runs anywhere in a minute; on larger networks the share of
the hooks only shrinks.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import pcs_core
from pcs_core.data import Concept, Phase, Recipe, Subject, Use
from pcs_core.hookspecs import run_manager

USES = ("tokens.learnable", "weights.kv", "weights.lora")


def recipe(steps: int) -> Recipe:
    """Return a recipe of three techniques that all have a subject axis."""
    from pcs_core.catalogue import catalogue

    held = catalogue()
    uses = tuple(Use(id, held.get("techniques", id)()) for id in USES)
    return Recipe(id="bench", uses=uses, phases=(Phase("all", steps=steps),))


def subjects(count: int) -> list[Subject]:
    """Return ``count`` subjects of one random picture each."""
    rng = torch.Generator().manual_seed(0)
    return [
        Subject(
            name=f"s{i}",
            concepts=(Concept(name=f"s{i}", token=f"<s{i}>", noun="dog"),),
            images=(torch.rand(3, 32, 32, generator=rng),),
        )
        for i in range(count)
    ]


def step_seconds(count: int, backbone: Any, steps: int) -> float:
    """Return the median seconds of a fit step with ``count`` subjects."""
    seen: list[tuple[int, float]] = []
    pcs_core.fit(
        recipe(steps), subjects(count), backbone, watch=[lambda p: seen.append((p.done, p.seconds))]
    )
    pairs = itertools.pairwise(seen)
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs)


def hook_seconds(calls: int = 20_000) -> float:
    """Return the seconds of one call of a hook through pluggy, with six implementations."""
    manager = run_manager()
    for number in range(6):
        manager.register(Silent(), f"silent{number}")
    return _time(lambda: manager.hook.regularize(run=None, step=None), calls)


class Silent:
    """Implements one hook and says nothing."""

    @pcs_core.hookimpl
    def regularize(self) -> None:
        """Return no loss."""


def _time(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    backbone = pcs_core.open_backbone("tiny")
    hook = hook_seconds()
    steps = {n: step_seconds(n, backbone, options.steps) for n in (1, 2, 4)}
    print(
        f"torch {torch.__version__}, {options.threads} thread(s), backbone tiny, {', '.join(USES)}\n"
    )
    print("| what | time |\n|---|---|")
    print(f"| one hook call, six implementations | {hook * 1e6:.1f} us |")
    for count, seconds in steps.items():
        print(f"| a fit step, {count} subject(s) in one forward | {seconds * 1e3:.1f} ms |")
    print(f"| three hook calls, share of a step of one subject | {3 * hook / steps[1]:.2%} |")
    print(f"| 4 subjects together against one by one | {4 * steps[1] / steps[4]:.1f} x faster |")


if __name__ == "__main__":
    main()
