"""Is a graph one that TensorRT can build: operators, their documented limits, and types.

A strongly typed network takes the types of the graph as they are, so every tensor must have one that
TensorRT has, and ONNX's own type rules must hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_tensorrt.operators import OLDEST_OPSET, SINCE, TYPES, newest_opset, takes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

RESIZE_MODES = ("nearest", "linear")
RESIZE_TRANSFORMS = (
    "half_pixel",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "asymmetric",
    "align_corners",
)
CONSTANT_INPUT = {"OneHot": 1, "CumSum": 1, "Squeeze": 1, "Unsqueeze": 1}
"""Operator -> the input that must be a constant; of reductions it is the second."""


def read(file: Path) -> ModelProto:
    """Return the graph of ``file`` without its weights."""
    import onnx

    return onnx.load(str(file), load_external_data=False)


def check(model: ModelProto, target: tuple[int, int]) -> list[str]:
    """Return why TensorRT ``target`` would not build ``model``, a line each; empty where nothing is known."""
    return [*_opset(model, target), *_operators(model, target), *typed(model)]


def _opset(model: ModelProto, target: tuple[int, int]) -> Iterator[str]:
    newest = newest_opset(target)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and not OLDEST_OPSET <= entry.version <= newest:
            yield (
                f"opset {entry.version}: TensorRT {_show(target)} reads {OLDEST_OPSET} to {newest}; "
                f"export with --option opset={newest}"
            )


def _operators(model: ModelProto, target: tuple[int, int]) -> Iterator[str]:
    functions = {(f.domain, f.name) for f in model.functions}
    seen: set[str] = set()
    nodes = [*model.graph.node, *(n for f in model.functions for n in f.node)]
    known = constants(nodes, {i.name for i in model.graph.initializer})
    ranks = _ranks(model)
    for node in nodes:
        if (node.domain, node.op_type) in functions:
            continue
        if node.domain not in ("", "ai.onnx") or not takes(node.op_type, target):
            if node.op_type not in seen:
                since = SINCE.get(node.op_type)
                more = f" before {_show(since)}" if since else ""
                yield f"operator {node.domain + ':' if node.domain else ''}{node.op_type}: not taken{more}"
            seen.add(node.op_type)
        else:
            for reason in limits(node, known, ranks):
                yield f"node {node.name or node.output[0]!r} ({node.op_type}): {reason}"


def limits(node: NodeProto, constant: set[str], ranks: dict[str, int]) -> Iterator[str]:
    """Yield which documented limits of its operator ``node`` breaks."""
    values = attributes(node)
    if node.op_type == "Attention":
        if len([o for o in node.output if o]) > 1 or any(node.input[4:]):
            yield "past keys, present keys and the matrix product's output are not taken"
        if values.get("softcap") or values.get("qk_matmul_output_mode"):
            yield "attributes softcap and qk_matmul_output_mode are not taken"
        if any(ranks.get(name, 4) != 4 for name in node.input[:4] if name):
            yield "queries, keys, values and mask must have 4 axes"
    elif node.op_type == "Resize":
        if values.get("mode", "nearest") not in RESIZE_MODES:
            yield f"mode {values['mode']!r} is not taken"
        if values.get("coordinate_transformation_mode", "half_pixel") not in RESIZE_TRANSFORMS:
            yield f"transformation {values['coordinate_transformation_mode']!r} is not taken"
        if values.get("antialias"):
            yield "antialiasing is not taken"
    elif node.op_type == "LayerNormalization" and len([o for o in node.output if o]) > 1:
        yield "only its first output is taken"
    elif node.op_type == "ScatterND" and values.get("reduction", "none") != "none":
        yield f"reduction {values['reduction']!r} is not taken"
    place = 1 if node.op_type.startswith("Reduce") else CONSTANT_INPUT.get(node.op_type)
    input_name = node.input[place] if place is not None and len(node.input) > place else ""
    if input_name and input_name not in constant:
        yield f"its input {input_name!r} must be a constant"


def constants(nodes: list[Any], given: set[str]) -> set[str]:
    """Return the names of tensors that follow from constants alone, those ``given`` included."""
    known = set(given)
    for node in nodes:
        inputs = [name for name in node.input if name]
        if node.op_type == "Constant" or (inputs and all(name in known for name in inputs)):
            known |= set(node.output)
    return known


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes, strings decoded."""
    import onnx

    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def typed(model: ModelProto) -> list[str]:
    """Return where the types of ``model`` are wrong for a strongly typed network."""
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except Exception as error:
        return [f"types: {' '.join(str(error).split())[:300]}"]
    problems = []
    graph = inferred.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        if kind not in TYPES:
            problems.append(f"tensor {value.name!r} is {kind}, which TensorRT has not")
    for tensor in graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        if kind not in TYPES:
            problems.append(f"constant {tensor.name!r} is {kind}, which TensorRT has not")
    return problems


def _ranks(model: ModelProto) -> dict[str, int]:
    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def _show(version: tuple[int, int] | None) -> str:
    return "" if version is None else f"{version[0]}.{version[1]}"
