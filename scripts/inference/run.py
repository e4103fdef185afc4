"""The order of things: what is opened, what is measured, and what is left out when time is short."""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inference import engines, machine, measure, networks, prepare
from inference.artifacts import Prepared, prepare_encoder, prepare_lora, prompts_of
from inference.engines import Open
from inference.rounds import Budget
from inference.rows import (
    BF16,
    COMPILE,
    EAGER,
    INT8,
    ONNX,
    OPENVINO,
    OPENVINO_INT8,
    target,
)
from inference.steps import Step
from pcs_core import load_preset, open_backbone, save
from pcs_core.catalogue import catalogue

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone

Tell = Callable[[str], None]
FAST = "fast"
"""The preset that is timed beside the full number of steps."""
ERROR = 1e-5
"""Largest relative difference of equal output, fp32."""
FITS, FIT_STEPS = 6, 60
"""Subjects and steps of the low-rank fits that the gates judge where no adapter is trained."""
SECONDS = {
    **{"pictures": 10.0, "switches": 10.0, "gates": 20.0, "lora": 15.0},
    **{"large": 45.0, "large onnx": 150.0, "cold": 65.0},
}
"""About what the parts take on two cores; a part that does not fit any more is left out."""


def run(
    model: str,
    *,
    work: Path,
    minutes: float,
    rounds: int,
    fresh: bool,
    tiny: bool,
    tell: Tell,
    parts: Collection[str] = (),
) -> dict[str, Any]:
    """Return machine, versions, rows, targets, verdicts of the quality gate, and what was left out."""
    plan = measure.Plan(model, Budget(60 * minutes), rounds=rounds, parts=frozenset(parts))
    if tiny:
        plan.steps, plan.rounds, plan.calls, plan.model = 6, min(rounds, 2), 1, f"tiny ({model})"
    report: dict[str, Any] = {"model": model, "tiny": tiny, "gates": [], "deployments": {}}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) if tiny else work
        root.mkdir(parents=True, exist_ok=True)
        if model == "mini":
            _small(plan, "tiny" if tiny else "mini", root, fresh, tiny, report, tell)
        else:
            _threads(plan, report, None)
            _large(plan, model, root, fresh, tiny, report, tell)
        if plan.wants("devices"):
            _devices(plan, tiny, report, tell)
    report["rows"] = plan.rows
    report["targets"] = _targets(plan, report)
    report["skipped"] = plan.budget.skipped
    return report


# long: the plan of a study, in the order in which it is run
def _small(
    plan: measure.Plan,
    name: str,
    root: Path,
    fresh: bool,
    tiny: bool,
    report: dict[str, Any],
    tell: Tell,
) -> None:
    """Measure the embedded backbone: every engine, steps, pictures, switches, cold starts, the gate."""
    budget = plan.budget
    first = engines.eager(name)
    subjects = 3 if tiny else 8
    adapter = root / "adapter"
    shutil.rmtree(adapter, ignore_errors=True)
    prepared = prepare_encoder(first.backbone, subjects, adapter)
    report["personalizations"] = {"system": prepared.recipe.id, "note": prepared.note}
    with Step(
        first.backbone, prepared.artifacts[0], prompts_of(prepared.artifacts[0])[0], 4
    ) as step:
        _threads(plan, report, step)
    tell(f"{report['machine']['threads']} threads; {prepared.note}")

    wants_lora = plan.wants("lora") or (plan.wants("gates") and not prepared.trained)
    process = None
    if wants_lora:
        process = prepare.begin(name, root, *_fits(tiny), fresh=fresh)
    opened = [first]
    openers: list[tuple[str, Callable[[], Open]]] = []
    backend = "aot_eager" if tiny else "inductor"  # kernels take minutes to compile
    if "avx512_bf16" in report["machine"]["flags"] or tiny:
        openers.append((BF16.label, partial(engines.bf16, name)))
    build = partial(open_backbone, name)
    openers.append((COMPILE.label, partial(engines.compiled, build, backend)))
    openers.append((ONNX.label, partial(engines.onnx, prepared, first.backbone, root, fresh=fresh)))
    for one in engines.attempts(openers, budget.skip):
        tell(f"{one.side.label} is open, {budget.left:.0f} s left")
        opened.append(one)
    by_label = {o.side.label: o for o in opened}
    if ONNX.label in by_label:
        source = by_label[ONNX.label]
        quantize = partial(
            engines.int8, source, engines.drawings(source, prepared, steps=plan.steps)
        )
        for one in engines.attempts([(INT8.label, quantize)], budget.skip):
            tell(f"{one.side.label} is open, {budget.left:.0f} s left")
            opened.append(one)
    opened = engines.with_openvino(opened, budget.skip)
    by_label = {o.side.label: o for o in opened}
    report["deployments"] |= {o.side.label: dict(o.facts) for o in opened if o.facts}
    if COMPILE.label in by_label:
        measure.warm(by_label[COMPILE.label], prepared.artifacts[0])
        tell(f"compiled, {budget.left:.0f} s left")
    if process is not None:
        process.join(max(1.0, budget.left - 120))
        if process.exitcode != 0:
            process.kill()
            budget.skip("LoRA", f"its preparation ended with {process.exitcode}")
            wants_lora = False
        tell(f"LoRA is ready, {budget.left:.0f} s left")

    artifact = prepared.artifacts[0]
    tell("steps")
    measure.steps(plan, opened, artifact, 1)
    flop = measure.steps(plan, opened, artifact, measure.PICTURES)
    exact = [by_label[s.label] for s in (EAGER, COMPILE, ONNX, OPENVINO) if s.label in by_label]
    small = [by_label[s.label] for s in (INT8, OPENVINO_INT8) if s.label in by_label]
    some = [o for o in opened if o.side is not BF16]

    def pictures() -> None:
        measure.pictures(plan, some, prepared.artifacts, flop)
        _fast(plan, name, opened, prepared, report)

    def switches() -> None:
        measure.switches(plan, exact, prepared.artifacts[:2], "subject", 4 if tiny else 9)
        for strength in _strengths(prepared, first.backbone)[:1]:
            values = [{strength: 0.4}, {strength: 0.8}]
            measure.switches(
                plan, exact, prepared.artifacts[:1], "strength", 4 if tiny else 9, values
            )

    _part(plan, "pictures", pictures, tell)
    _part(plan, "switches", switches, tell)
    if prepared.trained:
        gates = partial(_gates, plan, first, small, prepared, tiny, report)
        _part(plan, "gates", gates, tell)
    if wants_lora:
        _part(
            plan, "lora", partial(_lora, plan, first, by_label, prepared, root, tiny, report), tell
        )
    if plan.wants("large"):
        _part(plan, "large", partial(_large, plan, "mini", root, fresh, tiny, report, tell), tell)
    columns = [*exact, *(o for o in small if o.side is INT8)]
    _part(plan, "cold", partial(_cold, plan, columns, prepared, root, tiny), tell)


def _part(plan: measure.Plan, part: str, work: Callable[[], None], tell: Tell) -> None:
    """Do a part that is wanted and fits; what goes wrong in it costs no other part."""
    asked = plan.wants(part) or (part == "lora" and plan.wants("gates"))
    seconds = 0 if plan.model.startswith("tiny") else SECONDS[part]
    if not asked or not plan.budget.allows(part, seconds):
        return
    tell(f"{part}, {plan.budget.left:.0f} s left")
    try:
        work()
    except Exception as error:
        plan.budget.skip(part, engines.one_line(error))


def _fast(
    plan: measure.Plan,
    name: str,
    opened: list[Open],
    prepared: Prepared,
    report: dict[str, Any],
) -> None:
    """Time the drawing with the preset, on what draws exactly."""
    if FAST not in catalogue().ids("presets"):
        plan.budget.skip(f"preset {FAST!r}", "no plugin holds it")
        return
    steps = int(load_preset(FAST, backbone=name).sample.get("steps", plan.steps))
    exact = [o for o in opened if o.side in (EAGER, ONNX, OPENVINO)]
    measure.pictures(plan, exact, prepared.artifacts, 0, preset=FAST, steps=steps)
    report["fast_steps"] = steps


def _strengths(prepared: Prepared, backbone: Backbone) -> list[str]:
    with Step(backbone, prepared.artifacts[0], prompts_of(prepared.artifacts[0])[0], 1) as step:
        return sorted(step.net.fusion.strengths)


def _cold(
    plan: measure.Plan, opened: list[Open], prepared: Prepared, root: Path, tiny: bool
) -> None:
    folder = root / "artifact"
    shutil.rmtree(folder, ignore_errors=True)
    save(prepared.artifacts[0], folder)
    if tiny:
        opened = [o for o in opened if o.side in (EAGER, ONNX)]
    measure.cold_starts(
        plan, opened, folder, prompts_of(prepared.artifacts[0])[0], 1 if tiny else 2
    )


def _fits(tiny: bool) -> tuple[int, int]:
    """Return the subjects and the steps of the low-rank fits."""
    return (3, 2) if tiny else (FITS, FIT_STEPS)


def _lora(
    plan: measure.Plan,
    first: Open,
    by_label: dict[str, Open],
    prepared: Prepared,
    root: Path,
    tiny: bool,
    report: dict[str, Any],
) -> None:
    """Measure the switch of LoRAs; judge on fits where the encoder system is not trained here."""
    fits = prepare_lora(first.backbone, *_fits(tiny), root)
    opened = [first, *(by_label[k] for k in (COMPILE.label,) if k in by_label)]
    if ONNX.label in by_label:
        deploy = partial(engines.onnx, fits, first.backbone, root, fresh=False)
        opened += engines.attempts([("onnx of LoRA", deploy)], plan.budget.skip)
    source = next((o for o in opened if o.side is ONNX), None)
    opened = engines.with_openvino(opened, plan.budget.skip)
    measure.switches(plan, opened, fits.artifacts[:2], "LoRA", 4 if tiny else 9)
    if prepared.trained or not plan.wants("gates"):
        return
    small: list[Open] = []
    if INT8.label in by_label and source is not None:
        draw = engines.drawings(source, fits, steps=plan.steps, prompts=1)
        quantize = partial(engines.int8, source, draw)
        made = engines.attempts([("onnx int8 of LoRA", quantize)], plan.budget.skip)
        small = engines.with_openvino(list(made), plan.budget.skip)
    _gates(plan, first, small, fits, tiny, report)


def _gates(
    plan: measure.Plan,
    first: Open,
    small: list[Open],
    prepared: Prepared,
    tiny: bool,
    report: dict[str, Any],
) -> None:
    """Judge INT8 and the fast preset by the pictures of ``prepared``."""
    prompts = 4 if tiny else 2
    works: list[tuple[str, Callable[..., dict[str, Any]]]] = []
    for one in small:
        works.append((one.side.label, partial(measure.int8_gate, plan, first, one, prepared)))
    if FAST in catalogue().ids("presets"):
        works.append((FAST, partial(measure.preset_gate, plan, first, FAST, prepared)))
    for name, work in works:
        if plan.budget.allows(f"quality gate of {name}", 0 if tiny else SECONDS["gates"]):
            begun = time.perf_counter()
            verdict = work(prompts=prompts, count=1)
            report["gates"].append({**verdict, "seconds": time.perf_counter() - begun})


def _threads(plan: measure.Plan, report: dict[str, Any], step: Step | None) -> None:
    """Choose the number of threads and measure the machine's rates."""
    tried = machine.best_threads(step) if step is not None else {}
    if step is None:
        torch.set_num_threads(machine.cores())
    side = 256 if report["tiny"] else 0
    plan.rates = machine.rates(("float32", "bfloat16", "int8"), side=side)
    report["machine"] = {
        **machine.describe(torch.get_num_threads()),
        "step_seconds_by_threads": tried,
        "matmul_gflop_per_second": plan.rates,
    }
    report["versions"] = machine.versions()


def _large(
    plan: measure.Plan,
    model: str,
    root: Path,
    fresh: bool,
    tiny: bool,
    report: dict[str, Any],
    tell: Tell,
) -> None:
    """Measure a step of a network of the size of SD 1.5, random weights."""
    budget = plan.budget
    whole = model == "sd15"
    large_plan = measure.Plan("sd15", budget, rounds=5 if whole else 2, calls=1, rates=plan.rates)
    large_plan.prefix = "SD 1.5"
    if tiny:
        large_plan.model, large_plan.rounds, large_plan.steps = "tiny (sd15)", 1, 2
    build: Callable[[], Backbone] = partial(open_backbone, "tiny") if tiny else networks.sd15
    backbone = build()
    adapter = root / "adapter-large"
    shutil.rmtree(adapter, ignore_errors=True)
    prepared = prepare_encoder(backbone, 1, adapter)
    opened = [Open(EAGER, backbone)]
    openers: list[tuple[str, Callable[[], Open]]] = []
    if whole:
        compiled = partial(engines.compiled, build, "aot_eager" if tiny else "inductor")
        openers.append(("compile of SD 1.5", compiled))
    if whole or tiny or budget.left > SECONDS["large onnx"] + SECONDS["cold"]:
        # rounding adds up in a decoder of random weights, which a step does not use
        deploy = partial(engines.onnx, prepared, backbone, root, fresh=fresh, tolerance=1e-4)
        openers.append(("onnx of SD 1.5", deploy))
    else:
        budget.skip("SD 1.5 on ONNX Runtime", "no time left: MODEL=sd15 measures it")
    for one in engines.attempts(openers, budget.skip):
        tell(f"{one.side.label} of SD 1.5 is open, {budget.left:.0f} s left")
        opened.append(one)
    if whole and opened[-1].side is ONNX:
        quantize = partial(engines.int8, opened[-1], engines.single_steps(opened[-1], prepared), 1)
        opened += engines.attempts([("onnx int8 of SD 1.5", quantize)], budget.skip)
        opened = engines.with_openvino(opened, budget.skip)
    measure.steps(large_plan, opened, prepared.artifacts[0], 1, pixels=list(backbone.card.size))
    plan.rows += large_plan.rows
    del opened, backbone, prepared
    gc.collect()


def _devices(plan: measure.Plan, tiny: bool, report: dict[str, Any], tell: Tell) -> None:
    """Measure SD 1.5 and SDXL on CUDA, or go through the same on the CPU with tiny networks."""
    from inference.cuda import large_networks

    if not torch.cuda.is_available() and not tiny:
        return
    large_networks(plan, tiny=tiny, report=report, tell=tell)


def _targets(plan: measure.Plan, report: dict[str, Any]) -> list[dict[str, Any]]:
    rows = measure.by_name(plan)
    step = f"step of {measure.PICTURES} pictures with guidance: "
    vnni = any(flag in report["machine"]["flags"] for flag in machine.VNNI)
    usable = {gate["of"]: gate["usable"] for gate in report["gates"]}
    targets = [
        target(
            f"{runtime} fp32 against tuned eager, at equal output",
            rows,
            step + side.label,
            "ratio",
            1.15,
            least=True,
            also=lambda row: row["max_error"] <= ERROR,
        )
        for runtime, side in (("ONNX Runtime", ONNX), ("OpenVINO", OPENVINO))
    ]
    one = step.replace(f"{measure.PICTURES} pictures", "1 picture")
    for where, row, side in (
        ("ONNX Runtime", step, INT8),
        ("OpenVINO", step, OPENVINO_INT8),
        ("OpenVINO, 1 picture", one, OPENVINO_INT8),
    ):
        name = f"INT8 where the CPU has VNNI or AMX: {where}"
        goal = target(name, rows, row + side.label, "ratio", 1.8, least=True)
        targets.append({**goal, "applies": vnni, "usable": usable.get(side.label)})
    for preset, steps, limit in ((None, plan.steps, 8.0), (FAST, report.get("fast_steps", 0), 3.0)):
        what = measure.drawing(plan, preset, steps)
        drawings = [r for r in plan.rows if r["name"].rpartition(": ")[0] == what]
        exact = [row for row in drawings if row["dtype"] == "float32"]
        if exact:
            best = min(exact, key=lambda row: row["seconds"])
            name = "4 pictures of an added subject" + (f", preset {preset}" if preset else "")
            goal = target(name, rows, best["name"], "seconds", limit, least=False)
            targets.append(goal if preset is None else {**goal, "usable": usable.get(FAST)})
    for what in ("subject", "strength", "LoRA"):
        for side in (ONNX, OPENVINO, COMPILE):
            if f"switch of {what}: {side.label}" not in rows:
                continue
            targets.append(
                target(
                    f"switch of {what} on {side.label}: no export, no rebuild",
                    rows,
                    f"switch of {what}: {side.label}",
                    "seconds",
                    0.005,
                    least=False,
                    also=lambda row: row["exports"] == row["rebuilds"] == 0,
                )
            )
    return [*targets, *report.get("device_targets", [])]
