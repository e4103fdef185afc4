"""A report on one deployment: what can be said without TensorRT, and what a GPU measured."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from pcs_core import installed
from pcs_core.errors import PcsError
from pcs_tensorrt import deployments, engines, keys
from pcs_tensorrt.libraries import tensorrt
from pcs_tensorrt.operators import parse_target
from pcs_tensorrt.profiles import Range, span
from pcs_tensorrt.runtime import check_gpu
from pcs_tensorrt.session import EngineSession

LIMITS = {"float32": 1e-3, "float16": 5e-3}
"""Largest relative difference from ONNX Runtime. fp32 engines may multiply in TF32."""
RUNS = 20


def planned(
    folder: Path, target: str, options: engines.Options, chosen: Range | None = None
) -> dict[str, Any]:
    """Return what would be built of ``folder`` for TensorRT ``target``. Needs no library of it."""
    deployment, version = deployments.read(folder), parse_target(target)
    plans = engines.plans(deployment, chosen or span(deployment), version)
    return {
        "deployment": str(folder),
        "target": target,
        "dtype": deployment.dtype,
        "graphs": {
            name: {
                "problems": list(plan.problems),
                "profile": {n: [list(s) for s in shapes] for n, shapes in plan.profile.items()},
                "trtexec": engines.commands(plan, options, version),
            }
            for name, plan in plans.items()
        },
    }


def report(folder: Path, target: str, options: engines.Options) -> dict[str, Any]:
    """Return :func:`planned` with, where TensorRT and a GPU are here, what building and running gave.

    ``built`` is False where they are not, and ``missing`` says what is missing. ``passed`` is True where
    every engine agrees with ONNX Runtime and changes with each of its inputs.
    """
    try:
        trt = tensorrt()
        check_gpu()
    except PcsError as error:
        facts = planned(folder, target, options)
        return {**facts, "built": False, "missing": str(error), "passed": False}
    version = engines.target_of(trt)
    facts = planned(folder, f"{version[0]}.{version[1]}", options)
    deployment = deployments.read(folder)
    chosen, platform = span(deployment), keys.platform(trt)
    reference: Any = installed().get("loaders", "onnx")(
        folder, id=str(folder), device="cpu", dtype=None
    )
    plans = engines.plans(deployment, chosen, version)
    for name, plan in plans.items():
        started = time.perf_counter()
        content, key, fresh = engines.engine(trt, plan, deployment.dtype, options, platform)
        seconds = time.perf_counter() - started
        session = EngineSession(
            trt, content, [e["graph_name"] for e in plan.graph.inputs], chosen.rows[2]
        )
        facts["graphs"][name] |= {
            "key": key,
            "built_now": fresh,
            "build_seconds": round(seconds, 2),
            **measured(plan, session, reference.graphs[name].session, LIMITS[deployment.dtype]),
        }
    passed = all(graph["passed"] for graph in facts["graphs"].values())
    return {**facts, "platform": platform, "built": True, "passed": passed}


def measured(plan: engines.Plan, session: Any, reference: Any, limit: float) -> dict[str, Any]:
    """Return error, liveness by kind of input, and milliseconds of one engine."""
    rng = torch.Generator().manual_seed(0)
    entries = plan.graph.inputs
    values = [example(entry, plan.profile[entry["graph_name"]][1], rng) for entry in entries]
    expected, got = call(reference, entries, values), call(session, entries, values)
    error = max(
        float((a.float() - b.float()).abs().max() / a.float().abs().max().clamp_min(1e-12))
        for a, b in zip(expected, got, strict=True)
    )
    alive = {}
    for kind in sorted({entry["kind"] for entry in entries}):
        other = [
            example(e, plan.profile[e["graph_name"]][1], rng) if e["kind"] == kind else v
            for e, v in zip(entries, values, strict=True)
        ]
        moved = call(session, entries, other)
        alive[kind] = any(not torch.equal(a, b) for a, b in zip(got, moved, strict=True))
    passed = error <= limit and all(alive.values())
    return {
        "max_error": error,
        "alive": alive,
        "milliseconds": milliseconds(session, entries, values),
        "passed": passed,
    }


def example(entry: dict[str, Any], shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """Return a random input of ``shape``: ids, times in [0, 1000), else a normal one of moderate size."""
    if entry["dtype"].startswith("int"):
        return torch.randint(1, 100, shape, generator=rng)
    kind = getattr(torch, entry["dtype"])
    if entry["kind"] == "time":
        return (torch.rand(shape, generator=rng) * 999).to(kind)
    scale = 0.1 if entry["kind"] == "tensor" else 1.0
    return (torch.randn(shape, generator=rng) * scale).to(kind)


def call(session: Any, entries: Any, values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Run a session on inputs in the manifest's order."""
    batched = sum(entry["kind"] != "tensor" for entry in entries)
    outputs: list[torch.Tensor] = session(values[:batched], values[batched:])
    return outputs


def milliseconds(session: Any, entries: Any, values: list[torch.Tensor]) -> dict[str, float]:
    """Return median and spread of a call, inputs on the GPU, after warm-up."""
    inputs = [value.cuda() for value in values]
    taken = []
    for index in range(RUNS + 3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call(session, entries, inputs)
        torch.cuda.synchronize()
        if index >= 3:
            taken.append(1000 * (time.perf_counter() - started))
    return {"median": statistics.median(taken), "least": min(taken), "most": max(taken)}
