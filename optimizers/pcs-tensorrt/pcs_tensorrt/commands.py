"""``pcs tensorrt``: what would be built, building it, and a report on what was built."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcs_cli import emit

if TYPE_CHECKING:
    from pcs_tensorrt.engines import Options

app = typer.Typer(
    help="TensorRT engines of an ONNX deployment.", no_args_is_help=True, add_completion=False
)

Deployment = Annotated[
    Path, typer.Argument(metavar="DIR", help="What `pcs export --to onnx` wrote.")
]
Target = Annotated[str, typer.Option("--target", help="TensorRT version to plan for.")]
Workspace = Annotated[int, typer.Option("--workspace", min=64, help="MiB a build may use.")]
Level = Annotated[int, typer.Option("--level", min=0, max=5, help="How long a build searches.")]
Refit = Annotated[
    bool, typer.Option("--refit", help="Let weights be changed later, by base + delta.")
]
Cache = Annotated[
    str,
    typer.Option("--cache", metavar="DIR", help="Where engines are kept.", show_default=False),
]


@app.command()
def plan(
    deployment: Deployment,
    target: Target = "10.15",
    workspace: Workspace = 4096,
    level: Level = 3,
    refit: Refit = False,
    cache: Cache = "",
) -> None:
    """Print as JSON what would be built: problems, profiles, `trtexec` lines. Needs no TensorRT."""
    from pcs_tensorrt.reporting import planned

    facts = planned(deployment, target, _options(workspace, level, refit, cache))
    _print(facts)
    if any(graph["problems"] for graph in facts["graphs"].values()):
        raise typer.Exit(1)


@app.command()
def build(
    deployment: Deployment,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Most pictures a call.")] = 4,
    fixed: Annotated[bool, typer.Option("--fixed", help="For exactly that many.")] = False,
    workspace: Workspace = 4096,
    level: Level = 3,
    refit: Refit = False,
    cache: Cache = "",
) -> None:
    """Build the engines that the cache lacks; print their keys."""
    from pcs_tensorrt import deployments, engines, keys
    from pcs_tensorrt.libraries import tensorrt
    from pcs_tensorrt.profiles import span
    from pcs_tensorrt.runtime import check_gpu

    read = deployments.read(deployment)
    chosen = span(read, pictures=pictures, fixed=fixed)
    options = _options(workspace, level, refit, cache)
    trt = tensorrt()
    check_gpu()
    plans = engines.plans(read, chosen, engines.target_of(trt))
    platform = keys.platform(trt)
    for name, one in plans.items():
        _, key, fresh = engines.engine(trt, one, read.dtype, options, platform)
        emit(f"{name} {key} {'built' if fresh else 'was there'}")


@app.command()
def report(
    deployment: Deployment,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write it here too.", show_default=False),
    ] = None,
    target: Target = "10.15",
    workspace: Workspace = 4096,
    level: Level = 3,
    cache: Cache = "",
) -> None:
    """Build, compare with ONNX Runtime, time, and print it all as JSON; exit 1 unless all passed."""
    from pcs_tensorrt.reporting import report as run

    facts = run(deployment, target, _options(workspace, level, False, cache))
    text = _print(facts)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if not facts["passed"]:
        raise typer.Exit(1)


def _options(workspace: int, level: int, refit: bool, cache: str) -> Options:
    from pcs_tensorrt.engines import Options

    return Options(workspace, level, refit, cache)


def _print(facts: dict[str, Any]) -> str:
    import json

    text = json.dumps(facts, indent=1, ensure_ascii=False)
    emit(text)
    return text
