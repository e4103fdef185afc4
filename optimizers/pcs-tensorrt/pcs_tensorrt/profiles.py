"""Optimisation profiles: for each input the least, usual and largest shape an engine is built for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto

    from pcs_tensorrt.deployments import Deployment, Graph

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Range:
    """Rows (batch rows of a call) and sides of the latents: least, usual, largest."""

    rows: tuple[int, int, int]
    sides: tuple[int, int, int]


def span(
    deployment: Deployment,
    *,
    pictures: int = 4,
    guided: bool = True,
    fixed: bool = False,
    sides: tuple[int, int] | None = None,
) -> Range:
    """Return the range for up to ``pictures`` pictures a call, twice the rows where ``guided``.

    ``fixed`` builds for exactly that many rows: a CUDA graph and the fastest kernels need it. ``sides``
    are the smallest and largest side of the latents; the exported one where None.

    Raises
    ------
    InputError
        More rows than the graphs take, or sides that they do not take.
    """
    usual = pictures * (2 if guided else 1)
    limit = min(graph.rows for graph in deployment.graphs.values())
    if not 1 <= usual <= limit:
        raise InputError(f"{usual} rows a call: the graphs take 1 to {limit}; draw fewer pictures")
    side = deployment.latents[-1]
    small, large = sides or (side, side)
    step = deployment.step
    if (small, large) != (side, side):
        if not step:
            raise InputError("the graphs take one size only: export with --option size=dynamic")
        if not small <= side <= large or small % step or large % step:
            raise InputError(
                f"sides of latents {small} to {large}: they must enclose {side} and be multiples of "
                f"{step}"
            )
    return Range((usual if fixed else 1, usual, usual), (small, side, large))


REFERENCED = ("feature", "stream", "key")
"""Kinds of input whose axis beside the batch grows with the number of references."""
REFERENCES = (0, 1, 8)
"""Least, usual and largest number of them, in what the example has; at least one vector."""


def profile(graph: Graph, model: ModelProto, range: Range) -> Mapping[str, Shapes]:
    """Return graph input name -> shapes. Axes that the graph fixes stay; the first open one is the batch.

    Raises
    ------
    InputError
        Manifest and graph do not list the same inputs.
    """
    entries = {entry["graph_name"]: entry for entry in graph.inputs}
    names = [value.name for value in model.graph.input]
    if set(entries) != set(names):
        odd = sorted(set(entries) ^ set(names))[0]
        raise InputError(f"{graph.file}: input {odd!r} is not in both, manifest and graph")
    by_input: dict[str, Shapes] = {}
    for value in model.graph.input:
        entry = entries[value.name]
        batched = entry["kind"] != "tensor"
        example = [*([range.rows[1]] if batched else []), *(int(n) for n in entry["shape"])]
        shapes = []
        for rows, side, times in zip(range.rows, range.sides, REFERENCES, strict=True):
            shape = []
            for axis, (dim, usual) in enumerate(
                zip(value.type.tensor_type.shape.dim, example, strict=True)
            ):
                if dim.HasField("dim_value"):
                    shape.append(dim.dim_value)
                elif batched and axis == 0:
                    shape.append(rows)
                elif entry["kind"] in REFERENCED:
                    shape.append(max(1, times * usual))
                else:  # open beside the batch: it grows with the latents
                    shape.append(usual * side // range.sides[1])
            shapes.append(tuple(shape))
        by_input[value.name] = (shapes[0], shapes[1], shapes[2])
    return by_input
