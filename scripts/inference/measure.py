"""What is measured: steps, pictures, switches, cold starts, and pictures against pictures."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.artifacts import PLACES, Prepared, judge, prompts_of
from inference.engines import Counting, Open
from inference.gate import INT8_BOUNDS, compare
from inference.rounds import Budget, Timing, interleaved, timed
from inference.rows import EAGER, rows_of
from inference.steps import Step, relative_error
from pcs_acceleration.flops import flops_of
from pcs_core import sample

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Personalization

PARTS = ("pictures", "switches", "cold", "lora", "gates", "large", "devices")
"""What may be asked for beside the steps of the embedded backbone."""
LONG = 25.0
"""Seconds of a cold start above which it is measured once."""
PICTURES = 4
"""Drawn together."""


@dataclass
class Plan:
    """How much is measured, on what, and what was found so far."""

    model: str
    budget: Budget
    rounds: int = 5
    steps: int = 20
    calls: int = 3
    scale: float = 3.0
    rates: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    prefix: str = ""
    """Stands before the names of rows: they are unique in a result."""
    parts: frozenset[str] = frozenset()
    """Of :data:`PARTS`; empty is all."""
    plain: dict[tuple[str, str, int, int], Tensor] = field(default_factory=dict)
    """Eager pictures of the gates: both compare with the same."""

    def wants(self, part: str) -> bool:
        """Return whether ``part`` is to be measured."""
        return not self.parts or part in self.parts

    def goes_on(self, seconds: float) -> bool:
        """Return whether one more round of ``seconds`` leaves something for the other parts."""
        return self.budget.left > 2 * seconds


def steps(
    plan: Plan, engines: Sequence[Open], artifact: Personalization, pictures: int, **more: Any
) -> int:
    """Time one evaluation of the network for ``pictures`` with guidance; return its FLOP."""
    prompt = prompts_of(artifact)[0]
    made = {
        o.side.label: Step(o.backbone, artifact, prompt, pictures, scale=plan.scale)
        for o in engines
    }
    outputs: dict[str, Tensor] = {}
    device = str(engines[0].backbone.device)

    def turn(label: str) -> float:
        with made[label] as step:
            outputs[label] = step()
            return timed(step, device, plan.calls)

    base = next(iter(made))
    with made[base] as step:
        flop = flops_of(step)
    timings = interleaved({k: partial(turn, k) for k in made}, plan.rounds, goes_on=plan.goes_on)
    errors = {k: relative_error(v, outputs[base]) for k, v in outputs.items()}
    what = f"step of {pictures} picture{'s' if pictures > 1 else ''} with guidance"
    if plan.prefix:
        what = f"{plan.prefix} {what}"
    plan.rows += rows_of(
        what,
        plan.model,
        timings,
        errors,
        base=base,
        flop=flop,
        rates=plan.rates,
        network_rows=2 * pictures,
        **more,
    )
    return flop


def warm(opened: Open, artifact: Personalization) -> None:
    """Let an engine make ready what it needs for the numbers of pictures that are measured."""
    for pictures in (1, PICTURES):
        with Step(opened.backbone, artifact, prompts_of(artifact)[0], pictures) as step:
            step()


# long: every round shares its subjects and what it drew
def pictures(
    plan: Plan,
    engines: Sequence[Open],
    artifacts: Sequence[Personalization],
    step_flop: int,
    *,
    preset: str | None = None,
    steps: int = 0,
    **more: Any,
) -> None:
    """Time whole drawings: words and references encoded, guidance, decoding, subject already added.

    Each round draws another subject at another prompt, the same for all engines, so that nothing an
    engine remembers of an earlier round helps it. A ``preset`` brings its own ``steps``.
    """
    works = [(p, prompts_of(p)[i]) for i in range(len(PLACES)) for p in artifacts[:2]]
    first = engines[0].backbone
    drawn: dict[str, Tensor] = {}
    turns = dict.fromkeys((o.side.label for o in engines), 0)

    def turn(opened: Open) -> float:
        label = opened.side.label
        artifact, prompt = works[turns[label] % len(works)]
        turns[label] += 1

        def draw() -> None:
            drawn[label] = _draw(
                plan,
                opened,
                artifact,
                prompt,
                PICTURES,
                turns[label],
                preset=preset,
                remember=False,
            )

        return timed(draw, str(first.device))

    timings = interleaved(
        {o.side.label: partial(turn, o) for o in engines},
        max(1, plan.rounds // 2),
        warm=0,  # steps were measured before: all is warm
        goes_on=plan.goes_on,
    )
    base = engines[0].side.label
    flop = None
    if preset is None:
        with Step(first, *works[0], PICTURES, scale=plan.scale) as step:
            decode = flops_of(lambda: first.decode(step.latents[:PICTURES]))
        flop = plan.steps * step_flop + decode
    plan.rows += rows_of(
        drawing(plan, preset, steps),
        plan.model,
        timings,
        {k: relative_error(v, drawn[base]) for k, v in drawn.items()},
        base=base,
        flop=flop,
        rates=plan.rates,
        pictures=PICTURES,
        steps=steps or plan.steps,
        **more,
    )
    for row in plan.rows[-len(timings) :]:
        row["seconds_per_picture"] = row["seconds"] / PICTURES


def drawing(plan: Plan, preset: str | None = None, steps: int = 0) -> str:
    """Return what the rows of whole drawings are called."""
    how = "with guidance" if preset is None else f"by preset {preset!r}"
    return f"{PICTURES} pictures, {steps or plan.steps} steps {how}"


def switches(
    plan: Plan,
    engines: Sequence[Open],
    artifacts: Sequence[Personalization],
    what: str,
    rounds: int,
    strengths: Sequence[Mapping[str, float]] = (),
) -> None:
    """Time what another subject, LoRA or strength costs before the first step of its sampling.

    Making and binding the artifact's edits, and what the first call takes longer than the next ones.
    Everything was drawn once before, and keys and values of image tokens are remembered where the engine
    does so: ``new_seconds`` is the same at first sight. Encoding words and image tokens is told apart
    (``encode_seconds``). Exports, sessions and compilations are counted.
    """
    names = ("restore_seconds", "bind_seconds", "encode_seconds")
    kept: dict[str, dict[str, list[float]]] = {
        o.side.label: {name: [] for name in names} for o in engines
    }
    turns = dict.fromkeys(kept, 0)

    def turn(opened: Open) -> float:
        label = opened.side.label
        turns[label] += 1
        artifact = artifacts[turns[label] % len(artifacts)]
        with Step(opened.backbone, artifact, prompts_of(artifact)[0], 1, scale=plan.scale) as step:
            for name in names:
                kept[label][name].append(getattr(step, name))
            cost = step.restore_seconds + step.bind_seconds
            if strengths:
                step()
                begun = time.perf_counter()
                step.strengthen(strengths[turns[label] % len(strengths)])
                cost = time.perf_counter() - begun
            first = timed(step)
            usual = sorted(timed(step) for _ in range(3))[1]
        return max(1e-6, cost + max(0.0, first - usual))

    timings, counts, fresh = {}, {}, {}
    for opened in engines:  # one after the other: counts are an engine's own
        label = opened.side.label
        turn(opened)
        fresh[label] = Timing(tuple(turn(opened) for _ in artifacts)).seconds
        with Counting() as counting:
            timings[label] = Timing(tuple(turn(opened) for _ in range(rounds)))
        counts[label] = counting
    rows = rows_of(f"switch of {what}", plan.model, timings, {}, base=engines[0].side.label)
    for row in rows:
        label = row["name"].rpartition(": ")[2]
        row["exports"], row["rebuilds"] = counts[label].exports, counts[label].rebuilds
        row |= {name: Timing(tuple(values)).seconds for name, values in kept[label].items()}
        row["new_seconds"] = fresh[label]
        row["max_error"] = 0.0
    plan.rows += rows


def cold_starts(
    plan: Plan, engines: Sequence[Open], folder: Path, prompt: str, rounds: int
) -> None:
    """Time the command from its start to one picture on disk, caches of compilers empty."""

    def turn(opened: Open) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out"
            words = [sys.executable, "-m", "pcs_cli.main", "sample", str(folder), prompt]
            words += ["-n", "1", "--steps", str(plan.steps), "--out", str(out), "--device", "cpu"]
            if opened.folder is not None:
                words += ["--engine", opened.side.engine, "--deployment", str(opened.folder)]
                words += ["--option", f"providers={opened.side.provider}"]
            elif opened.side is not EAGER:
                words += ["--engine", opened.side.engine]
            more = {"TORCHINDUCTOR_CACHE_DIR": scratch, "HF_HUB_OFFLINE": "1"}
            begun = time.perf_counter()
            done = subprocess.run(
                words, capture_output=True, text=True, env={**os.environ, **more}, check=False
            )
            seconds = time.perf_counter() - begun
        if done.returncode:
            raise RuntimeError(f"{' '.join(words[3:])}: {done.stderr.strip()[-500:]}")
        return seconds

    values: dict[str, list[float]] = {}
    for number in range(rounds):
        for opened in engines:
            label = opened.side.label
            # what compiles for a minute does so once
            if number and (label not in values or values[label][0] > LONG):
                continue
            try:
                values.setdefault(label, []).append(turn(opened))
            except RuntimeError as error:
                plan.budget.skip(f"cold start: {label}", str(error)[:300])
    if EAGER.label not in values:
        return
    timings = {label: Timing(tuple(taken)) for label, taken in values.items()}
    plan.rows += rows_of("cold start to the first picture", plan.model, timings, {})


def int8_gate(
    plan: Plan, eager: Open, new: Open, prepared: Prepared, *, prompts: int, count: int
) -> dict[str, Any]:
    """Judge pictures of an INT8 deployment against eager ones."""
    draws = (partial(_draw, plan, eager), partial(_draw, plan, new))
    verdict = compare(
        draws, prepared, judge(eager.backbone), INT8_BOUNDS, prompts=prompts, count=count
    )
    return {"of": new.side.label, **verdict}


def preset_gate(
    plan: Plan, eager: Open, preset: str, prepared: Prepared, *, prompts: int, count: int
) -> dict[str, Any]:
    """Judge pictures drawn with a preset against plain ones, by the preset's own bounds."""
    from pcs_core import load_preset

    known = load_preset(preset, backbone=eager.backbone.card.id)
    draws = (partial(_draw, plan, eager), partial(_draw, plan, eager, preset=preset))
    artifact = prepared.artifacts[0]
    prompt = prompts_of(artifact)[0]
    # anew: a picture that another gate kept costs nothing
    work = [flops_of(partial(draw, artifact, prompt, 1, 0, remember=False)) for draw in draws]
    verdict = compare(
        draws,
        prepared,
        judge(eager.backbone),
        known.bounds,
        prompts=prompts,
        count=count,
        cost=work[1] / work[0],
    )
    return {"of": preset, **verdict}


def _draw(
    plan: Plan,
    opened: Open,
    artifact: Personalization,
    prompt: str,
    count: int,
    seed: int,
    *,
    preset: str | None = None,
    remember: bool = True,
) -> Tensor:
    kept = (artifact.subject + artifact.recipe.id, prompt, count, seed)
    plain = opened.side is EAGER and preset is None and remember
    if plain and kept in plan.plain:
        return plan.plain[kept]
    # a preset brings its own number of steps
    steps = plan.steps if preset is None else None
    pictures = sample(
        artifact,
        opened.backbone,
        prompt,
        count=count,
        seed=seed,
        steps=steps,
        scale=plan.scale,
        preset=preset,
    )
    if plain:
        plan.plain[kept] = pictures
    return pictures


def by_name(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return the rows by name."""
    return {row["name"]: row for row in plan.rows}
