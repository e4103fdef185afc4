"""``pcs bench estimate``: how long a run will take, from the recipes' settings and two short timings.

A fit costs its rows (steps times batch), each a forward and a backward; a picture costs its sampling
steps, twice where there is guidance. Both units are timed here, in seconds of processor time, so that
other work on the machine does not matter. Techniques that do more in a step cost more than this says.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_bench.run.commands import Backbone, Settings, named_systems
from pcs_cli import emit

if TYPE_CHECKING:
    from pcs_core.data import Recipe

TIMED = "lora-dreambooth"
"""The system whose fit is timed."""


@dataclass(frozen=True, slots=True)
class Units:
    """Processor seconds of one row of a fit, and of one row of a sampling step."""

    train: float
    draw: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What one system costs: ``rows`` trained and ``drawn`` (row-steps before the fit) a subject,
    ``steps`` row-steps a picture, seconds of a fit and of a picture, minutes of the whole suite.
    """

    system: str
    rows: int
    drawn: int
    steps: int
    fit: float
    picture: float
    minutes: float
    why: str = ""


def cost(recipe: Recipe, units: Units, subjects: int, pictures: int) -> Cost:
    """Return what a system costs on ``subjects`` of ``pictures`` each."""
    rows = recipe.cycles * sum(
        phase.steps * phase.accumulate * sum(abs(n) for n in phase.batch.values())
        for phase in recipe.phases
        if not phase.pretrain
    )
    drawn = 0
    for use in recipe.uses:  # prior pictures, where a technique draws them
        settings = use.technique.settings()
        count, steps = settings.get("count", 0), settings.get("steps", 0)
        if isinstance(count, int) and (steps is None or isinstance(steps, int)):
            # None: as the recipe draws
            scale = settings.get("scale", 1.0)
            scale = recipe.sample.scale if scale is None else scale
            drawn += count * (recipe.sample.steps if steps is None else steps) * _sides(scale)
    steps = recipe.sample.steps * _sides(recipe.sample.scale)
    fit, picture = rows * units.train + drawn * units.draw, steps * units.draw
    whole = subjects * (fit + pictures * picture) / 60
    return Cost(recipe.id, rows, drawn, steps, fit, picture, whole)


def _sides(scale: float | None) -> int:
    return 1 if scale in (None, 1.0) else 2


def timed(backbone: Any, subject: Any) -> Units:
    """Time a row of a fit and a row of a sampling step on a backbone."""
    from pcs_core import fit, load_recipe, sample

    def drawing(steps: int) -> float:
        started = time.process_time()
        sample(None, backbone, ["a picture of a dog"] * 8, seed=0, steps=steps, scale=3.0)
        return time.process_time() - started

    def fitting(steps: int) -> float:
        started = time.process_time()
        fit(load_recipe(TIMED, overrides=[f"tune.steps={steps}"]), subject, backbone)
        return time.process_time() - started

    batch = sum(load_recipe(TIMED).phases[0].batch.values())
    drawing(1), fitting(1)  # what is done once is no part of a step
    return Units(
        max(1e-6, (fitting(8) - fitting(2)) / (6 * batch)),
        max(1e-6, (drawing(6) - drawing(2)) / (4 * 16)),
    )


def estimate(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A suite's id, or its file.")],
    systems: Annotated[str, typer.Option("--systems", help="As in pcs bench run.")] = "ready",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Pictures of each prompt.")] = 4,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Subjects; 0: all.")] = 0,
    prompts: Annotated[int, typer.Option("--prompts", min=0, help="Prompts each; 0: all.")] = 0,
    backbone: Backbone = "mini",
    settings: Settings = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes at work.")] = 2,
    minutes: Annotated[float, typer.Option("--minutes", help="What a run may take.")] = 150,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how long pcs bench run will take, system by system, and by how much to cut if too long."""
    import json

    from pcs_bench import suites
    from pcs_bench.run.plan import Protocol, prompts_of
    from pcs_bench.run.workplace import load_system
    from pcs_core import open_backbone
    from pcs_core.errors import PcsError

    loaded = suites.load(suite)
    subjects = loaded.subjects[: limit or None]
    each = seeds * min(
        prompts or 10**6, max(len(prompts_of(loaded, subject.name)) for subject in subjects)
    )
    names = named_systems(systems)
    opened = open_backbone(backbone, device="cpu")
    units = timed(opened, subjects[0].folder() if callable(subjects[0].folder) else None)
    protocol = Protocol(
        suite, names, (), backbone=backbone, settings=tuple(settings or ()), seeds=seeds
    )
    costs: list[Cost] = []
    for name in names:
        try:
            costs.append(cost(load_system(protocol, name), units, len(subjects), each))
        except PcsError as error:
            costs.append(Cost(name, 0, 0, 0, 0.0, 0.0, 0.0, str(error)))
    whole = sum(c.minutes for c in costs) / workers
    if as_json:
        rows = [asdict(c) for c in costs]
        emit(json.dumps({"units": asdict(units), "systems": rows, "minutes": whole}, indent=1))
        return
    emit(
        f"{units.train * 1000:.1f} ms a row of a fit, {units.draw * 1000:.1f} ms a row of a sampling step; "
        f"{len(subjects)} subjects, {each} pictures each"
    )
    _tell(costs)
    emit(f"{whole:.0f} minutes on {workers} workers, of {minutes:g}")
    if whole > minutes:
        drawing = sum(c.picture for c in costs) * len(subjects) * each / 60 / workers
        left = max(0.0, minutes - drawing) / max(1e-9, whole - drawing)
        emit(f"too long: drawing takes {drawing:.0f} of it; fits must shrink to {left:.0%}")


def _tell(costs: Sequence[Cost]) -> None:
    head = ("rows a fit", "fit, s", "picture, s", "minutes")
    emit(f"{'':22}" + "".join(f"{word:>12}" for word in head))
    for c in sorted(costs, key=lambda c: -c.minutes):
        if c.why:
            emit(f"{c.system:22} {c.why}")
            continue
        numbers = f"{c.rows:>12}{c.fit:>12.1f}{c.picture:>12.2f}{c.minutes:>12.1f}"
        emit(f"{c.system:22}{numbers}")
