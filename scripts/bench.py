"""Fit steps: subjects together against one by one, cached against re-encoded, hooks against the step.

    python scripts/bench.py [--backbone tiny] [--subjects 4] [--steps 30] [--repeats 3] [--threads 1]

Prints the machine, the versions and both sides of every ratio, measured in this one run. Sides take
turns, and the median over the repeats is shown with the range.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch

from pcs_core import fit, load_recipe, open_backbone
from pcs_core.data import Concept, Recipe, Subject


def subjects(count: int) -> list[Subject]:
    """Return ``count`` random subjects of four pictures."""
    rng = torch.Generator().manual_seed(0)
    return [
        Subject(
            f"s{i}",
            (Concept(f"s{i}", f"<s{i}>", "dog"),),
            tuple(torch.rand(3, 64, 64, generator=rng) for _ in range(4)),
            (None,) * 4,
        )
        for i in range(count)
    ]


def paired(repeats: int, **sides: Callable[[], float]) -> dict[str, list[float]]:
    """Measure the sides in turn, after one warm-up each; return seconds."""
    for side in sides.values():
        side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(side())
    return times


def seconds_of_loop(recipe: Any, group: list[Subject], backbone: Any) -> float:
    """Return the seconds of the loop alone, preparation left out."""
    last: list[float] = []
    begun: list[float] = []

    def watch(progress: Any) -> None:
        begun.append(time.perf_counter())
        last.append(time.perf_counter())

    steps = recipe.phases[0].steps
    fit(recipe, group, backbone, watch=[watch])
    # the first report comes after ten steps: the loop between it and the last is what is timed
    return (last[-1] - begun[0]) / (steps - 10)


def show(title: str, times: dict[str, list[float]], unit: str = "ms a step") -> None:
    """Print medians, ranges and the ratio of the two sides."""
    medians = {}
    for name, values in times.items():
        medians[name] = statistics.median(values)
        low, high = min(values) * 1e3, max(values) * 1e3
        print(f"  {name:<42} {medians[name] * 1e3:10.4f} {unit}  ({low:.4f} to {high:.4f})")
    first, second = list(medians.values())[:2]
    print(f"  {title}: {first / second:.2f}x\n")


def main() -> None:
    """Run the three comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--subjects", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.steps < 20:
        parser.error("--steps must be at least 20")
    names = ("torch", "diffusers", "transformers", "pluggy")
    print(
        f"machine: {platform.platform()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    )
    print("versions: " + ", ".join(f"{n} {version(n)}" for n in names))
    print(f"backbone: {arguments.backbone}, {arguments.steps} steps, {arguments.repeats} repeats\n")
    backbone = open_backbone(arguments.backbone)
    group = subjects(arguments.subjects)
    settings = [f"tune.steps={arguments.steps}", "tune.batch=1"]
    lora = load_recipe("lora-dreambooth", overrides=settings)

    compare_together(lora, group, backbone, arguments.repeats)
    compare_encoding(lora, group, backbone, arguments.repeats, arguments.steps)
    compare_hooks(lora, group, backbone, arguments.repeats)


def compare_together(lora: Recipe, group: list[Subject], backbone: Any, repeats: int) -> None:
    """Print what fitting subjects together saves over fitting one after the other."""
    print(f"{len(group)} subjects, LoRA, batch 1 each")
    show(
        "together against one by one",
        paired(
            repeats,
            one_by_one=lambda: sum(seconds_of_loop(lora, [s], backbone) for s in group),
            together=lambda: seconds_of_loop(lora, group, backbone),
        ),
    )


def compare_encoding(
    lora: Recipe, group: list[Subject], backbone: Any, repeats: int, steps: int
) -> None:
    """Print what encoding pictures and text once saves over encoding them in every step."""
    print("one subject, LoRA: latents and text encoded once, against encoding them in every step")

    def encoding() -> float:
        images = torch.stack([group[0].images[0]])
        ids = torch.zeros(1, backbone.tokenizer.length, dtype=torch.long)
        begun = time.perf_counter()
        for _ in range(steps):
            backbone.moments(torch.nn.functional.interpolate(images, size=backbone.card.size))
            with torch.no_grad():
                backbone.encode_ids(ids)
        return (time.perf_counter() - begun) / steps

    cached = paired(
        repeats,
        encoding=encoding,
        step=lambda: seconds_of_loop(lora, group[:1], backbone),
    )
    both = {
        "step_plus_encoding": [
            a + b for a, b in zip(cached["step"], cached["encoding"], strict=True)
        ],
        "step_cached": cached["step"],
    }
    show("re-encoding against cached", both)


def compare_hooks(lora: Recipe, group: list[Subject], backbone: Any, repeats: int) -> None:
    """Print what calling the hooks costs, beside a step."""
    print("hook calls of a fit step (mask at moment batch, regularize), without what they compute")
    from pcs_engine.run import EngineRun

    run = EngineRun(lora, backbone)
    term = object()
    for implementation in run.manager.hook.regularize.get_hookimpls():
        implementation.function = lambda *_: term  # the call alone, not the loss

    def hooks() -> float:
        begun = time.perf_counter()
        for _ in range(200):
            run.call_at("mask", lambda technique, _: "batch" in technique.mask_moments)
            run.call("regularize", step=None)
        return (time.perf_counter() - begun) / 200

    cost = paired(
        repeats,
        step=lambda: seconds_of_loop(lora, group[:1], backbone),
        hooks=hooks,
    )
    show("step against its hook calls", cost)


if __name__ == "__main__":
    main()
