"""SD 1.5 and SDXL with an image adapter on a GPU, random weights in bfloat16; rehearsed at tiny size."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inference import measure, networks
from inference.artifacts import prepare_encoder, prompts_of
from inference.engines import Open, attempts
from inference.machine import rates
from inference.rounds import Timing, interleaved, timed
from inference.rows import Side, rows_of, target
from inference.steps import Step, relative_error
from pcs_acceleration.flops import flops_of
from pcs_core import open_backbone, open_engine, sample

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone

EAGER = Side("eager", "eager", "bfloat16")
COMPILE = Side("compile", "compile", "bfloat16")


@dataclass(frozen=True, slots=True)
class Work:
    """One picture: which network, at how many steps, and within how many seconds on an H100."""

    name: str
    build: Callable[..., Backbone]
    rehearsal: str
    pixels: int
    steps: int
    limit: float


WORKS = (
    Work("sd15", networks.sd15, "tiny", 512, 20, 0.110),
    Work("sdxl", networks.sdxl, "tiny-sdxl", 1024, 30, 1.30),
)


def large_networks(
    plan: measure.Plan, *, tiny: bool, report: dict[str, Any], tell: Callable[[str], None]
) -> None:
    """Add rows of one picture per network, engine and device, with the share of the measured rate."""
    device = "cpu" if tiny else "cuda"
    known = rates(("bfloat16",), device, 256 if tiny else 0)
    report["machine"]["device_matmul_gflop_per_second"] = known
    report["device_targets"] = []
    for work in WORKS:
        if not plan.budget.allows(f"{work.name} on {device}", 0 if tiny else 60):
            continue
        tell(f"{work.name} on {device}, {plan.budget.left:.0f} s left")
        for label, name in attempts(
            [(work.name, partial(_one, plan, work, device, known, tiny))], plan.budget.skip
        ):
            tell(f"{label}: {name}")
        gc.collect()
        row = f"{work.name} with an image adapter, {work.pixels} px, {work.steps} steps: compile"
        if not tiny:
            by_name = measure.by_name(plan)
            goal = target(
                f"{work.name} on an H100", by_name, row, "seconds", work.limit, least=False
            )
            report["device_targets"].append(
                {**goal, "applies": "H100" in str(report["machine"]["gpu"])}
            )


def _one(
    plan: measure.Plan, work: Work, device: str, known: dict[str, float], tiny: bool
) -> tuple[str, str]:
    dtype = torch.float32 if tiny else torch.bfloat16  # tiny backbones are built in float32
    backbone = open_backbone(work.rehearsal) if tiny else work.build(device=device, dtype=dtype)
    count, steps = 1, 2 if tiny else work.steps
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare_encoder(backbone, 1, Path(scratch) / "adapter")
        artifact = prepared.artifacts[0]
        opened = [Open(EAGER, backbone)]
        if not tiny:
            made = partial(_compiled, work, device, dtype)
            opened += attempts([(f"compile of {work.name}", made)], plan.budget.skip)
        with Step(backbone, artifact, prompts_of(artifact)[0], count, steps=steps) as step:
            flop = steps * flops_of(step) + flops_of(lambda: backbone.decode(step.latents[:count]))
        drawn: dict[str, torch.Tensor] = {}

        def turn(one: Open) -> float:
            def draw() -> None:
                drawn[one.side.label] = sample(
                    artifact,
                    one.backbone,
                    prompts_of(artifact)[0],
                    count=count,
                    steps=steps,
                    scale=5.0,
                )

            return timed(draw, device)

        timings: dict[str, Timing] = interleaved(
            {o.side.label: partial(turn, o) for o in opened}, 1 if tiny else 20, warm=3 - 2 * tiny
        )
    rows = rows_of(
        f"{work.name} with an image adapter, {work.pixels} px, {work.steps} steps",
        f"tiny ({work.name})" if tiny else work.name,
        timings,
        {k: relative_error(v, drawn["eager"]) for k, v in drawn.items()},
        flop=flop,
        device=device,
    )
    for row in rows:
        row["dtype"] = str(dtype).removeprefix("torch.")
        peak = known.get("bfloat16")
        row["mfu"] = row["gflop_per_second"] / peak if peak else None
        row["share_of_matmul"] = row["mfu"]
    plan.rows += rows
    return work.name, f"{rows[-1]['seconds']:.3f} s"


def _compiled(work: Work, device: str, dtype: torch.dtype) -> Open:
    return Open(COMPILE, open_engine(work.build(device=device, dtype=dtype), COMPILE.engine))
