"""Engines of a deployment: planned without TensorRT, built with it, kept in a cache by key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcs_core import cache_folder
from pcs_core.errors import CapabilityError
from pcs_tensorrt import building, keys
from pcs_tensorrt.checks import check, read
from pcs_tensorrt.deployments import Deployment, Graph
from pcs_tensorrt.libraries import version
from pcs_tensorrt.profiles import Range, Shapes, profile
from pcs_tensorrt.trtexec import command

VARIABLE = "PCS_TENSORRT_CACHE"
TIMINGS = "timing.cache"


@dataclass(frozen=True, slots=True)
class Options:
    """How engines are built. ``workspace`` in MiB, ``level`` 0 to 5, ``folder`` of the cache."""

    workspace: int = 4096
    level: int = 3
    refit: bool = False
    folder: str = ""

    @property
    def cache(self) -> Path:
        """The folder of plans and timings: given, ``PCS_TENSORRT_CACHE``, or in PCS's cache (``PCS_CACHE``)."""
        named = self.folder or os.environ.get(VARIABLE, "")
        return Path(named).expanduser() if named else cache_folder() / "tensorrt"

    def facts(self) -> dict[str, Any]:
        """Return what changes an engine."""
        return {"level": self.level, "refit": self.refit, "workspace": self.workspace}


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be built of one graph, and why TensorRT would refuse it (``problems``)."""

    graph: Graph
    profile: dict[str, Shapes]
    problems: tuple[str, ...]


def plans(deployment: Deployment, range: Range, target: tuple[int, int]) -> dict[str, Plan]:
    """Return graph name -> what would be built for TensorRT ``target``. Needs no library of it."""
    planned = {}
    for name, graph in deployment.graphs.items():
        model = read(graph.file)
        shapes = dict(profile(graph, model, range))
        planned[name] = Plan(graph, shapes, tuple(check(model, target)))
    return planned


def commands(plan: Plan, options: Options, target: tuple[int, int]) -> list[str]:
    """Return the build of ``plan`` as words of a ``trtexec`` command."""
    return command(
        plan.graph.file,
        options.cache / f"{plan.graph.name}.plan",
        plan.profile,
        target,
        timing_cache=options.cache / TIMINGS,
        workspace=options.workspace,
        level=options.level,
        refit=options.refit,
    )


def engine(
    trt: Any, plan: Plan, dtype: str, options: Options, platform: dict[str, str]
) -> tuple[bytes, str, bool]:
    """Return the serialized engine of ``plan``, its key, and whether it was built now.

    Raises
    ------
    CapabilityError
        TensorRT is known to refuse the graph, or refuses it.
    """
    if plan.problems:
        raise CapabilityError(
            f"{plan.graph.file}: TensorRT {trt.__version__} would not build it: "
            f"{'; '.join(plan.problems[:3])}"
        )
    facts = keys.facts(plan.graph, plan.profile, dtype, options.facts(), platform)
    file = options.cache / f"{keys.key(facts)}.plan"
    if file.is_file():
        return file.read_bytes(), file.stem, False
    options.cache.mkdir(parents=True, exist_ok=True)
    timings = options.cache / TIMINGS
    built, measured = building.build(
        trt,
        plan.graph.file,
        plan.profile,
        workspace=options.workspace,
        level=options.level,
        refit=options.refit,
        timing_cache=timings.read_bytes() if timings.is_file() else b"",
    )
    write(timings, measured)
    write(file, built)
    return built, file.stem, True


def write(file: Path, content: bytes) -> None:
    """Write ``file`` whole or not at all: another process may read it."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(file)


def target_of(trt: Any) -> tuple[int, int]:
    """Return the version that is installed."""
    return version(trt)
