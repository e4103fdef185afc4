"""Two graphs of a denoiser: keys and values of the conditioning, once per subject; and each step's rest.

What depends on text and image tokens alone, and on no latents, is the same in every step. The cut is
found in the graph: no class of network or technique is known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx_ir as ir

PRODUCTS = ("MatMul", "Gemm")
"""Only what is behind one is worth an input."""
BATCHED, CONSTANT = ("text", "layered", "stream"), ("tensor",)
"""Kinds of inputs that are the same in every step: with a row each, and without."""


class Split(NamedTuple):
    """``keys`` gives what ``step`` takes under ``names``, before its first input without rows."""

    keys: Any
    step: Any
    names: tuple[str, ...]


def split(model: ir.Model, kinds: dict[str, str]) -> Split | None:
    """Cut ``model`` in two; None where nothing is worth it. ``kinds`` says what each input is."""
    crossing = frontier(model, kinds)
    if not crossing:
        return None
    names = tuple(f"key_{i}" for i in range(len(crossing)))
    return Split(_keys(model, crossing, names), _step(model, crossing, names, kinds), names)


def frontier(model: ir.Model, kinds: dict[str, str]) -> list[str]:
    """Return the values, by name, that steps read of what no step changes."""
    from onnx_ir import AttributeType, DataType

    nested = (AttributeType.GRAPH, AttributeType.GRAPHS)
    floats = (DataType.FLOAT, DataType.FLOAT16)
    graph = model.graph
    rows = str(graph.inputs[0].shape[0]) if graph.inputs[0].shape is not None else ""
    still: set[Any] = {v for v in graph.inputs if kinds[str(v.name)] in (*BATCHED, *CONSTANT)}
    moving: set[Any] = {v for v in graph.inputs if v not in still}
    batched = {v for v in still if kinds[str(v.name)] in BATCHED}
    worth: set[Any] = set()
    for node in graph:
        given = [v for v in node.inputs if v is not None]
        if any(a.type in nested for a in node.attributes.values()) or any(
            v in moving for v in given
        ):
            moving.update(node.outputs)
        elif any(v in batched for v in given):
            batched.update(node.outputs)
            if node.op_type in PRODUCTS or any(v in worth for v in given):
                worth.update(node.outputs)
    crossing = []
    for node in graph:
        for value in node.outputs:
            read = any(o in moving for use in value.uses() for o in use.node.outputs)
            shape = value.shape
            fits = shape is not None and len(shape) > 1 and str(shape[0]) == rows
            if value in worth and read and fits and value.dtype in floats:
                crossing.append(str(value.name))
    return crossing


def _keys(model: ir.Model, crossing: Collection[str], names: Collection[str]) -> Any:
    copy = model.clone()
    values = {v.name: v for node in copy.graph for v in node.outputs}
    copy.graph.outputs.clear()
    for old, new in zip(crossing, names, strict=True):
        value = values[old]
        value.name = new
        copy.graph.outputs.append(value)
    return _pruned(copy)


def _step(
    model: ir.Model, crossing: Collection[str], names: Collection[str], kinds: dict[str, str]
) -> Any:
    import onnx_ir as ir

    copy = model.clone()
    values = {v.name: v for node in copy.graph for v in node.outputs}
    fresh = []
    for old, new in zip(crossing, names, strict=True):
        value = values[old]
        graph_input = ir.Value(name=new, shape=value.shape, type=value.type)
        ir.convenience.replace_all_uses_with(value, graph_input)
        fresh.append(graph_input)
    _measure_by(copy, fresh, kinds)
    inputs = list(copy.graph.inputs)
    first = next((i for i, v in enumerate(inputs) if kinds[str(v.name)] in CONSTANT), len(inputs))
    copy.graph.inputs.clear()
    copy.graph.inputs.extend([*inputs[:first], *fresh, *inputs[first:]])
    return _pruned(copy)


def _measure_by(model: ir.Model, keys: Collection[ir.Value], kinds: dict[str, str]) -> None:
    """Read an open number of tokens off the keys made of them, so that the tokens are no input."""
    for node in model.graph:
        source = node.inputs[0] if node.op_type == "Shape" else None
        if source is None or kinds.get(str(source.name)) not in BATCHED or source.shape is None:
            continue
        start, end = (node.attributes.get_int(name, -1) for name in ("start", "end"))
        if start < 1 or end != start + 1:
            continue
        for key in keys:
            shape = key.shape
            if shape is None or len(shape) <= start:
                continue
            if str(shape[start]) == str(source.shape[start]):
                node.replace_input_with(0, key)
                break


def _pruned(model: ir.Model) -> Any:
    """Leave out nodes, weights and inputs that nothing reads any more."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
    kept = [v for v in model.graph.inputs if v.uses() or v in model.graph.outputs]
    model.graph.inputs.clear()
    model.graph.inputs.extend(kept)
    return model
