"""The same build as a ``trtexec`` command line, for machines without this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcs_tensorrt.profiles import Shapes


def command(
    onnx: Path,
    engine: Path,
    profile: Mapping[str, Shapes],
    target: tuple[int, int],
    *,
    timing_cache: Path,
    workspace: int,
    level: int,
    refit: bool,
) -> list[str]:
    """Return the words of the command. ``workspace`` in MiB.

    Types stand in the graph: 10.x is told so, 11.x knows no other way and has no flag for precision.
    """
    words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}"]
    for place, flag in enumerate(("minShapes", "optShapes", "maxShapes")):
        shapes = ",".join(f"{n}:{'x'.join(map(str, s[place]))}" for n, s in profile.items() if s[1])
        words.append(f"--{flag}={shapes}")
    words += [
        f"--timingCacheFile={timing_cache}",
        f"--memPoolSize=workspace:{workspace}",
        f"--builderOptimizationLevel={level}",
        "--useCudaGraph",
    ]
    if target < (11, 0):
        words.append("--stronglyTyped")
    if refit:
        words.append("--refit")
    return words
