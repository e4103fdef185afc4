"""A small deployment folder with graphs written by hand: no exporter is needed to plan."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(nodes, inputs, outputs, constants=(), opset: int = 23) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(v, n) for n, v in constants]
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def denoiser(side: int | str = 8) -> onnx.ModelProto:
    """latents + time, scaled by a strength, through one low-rank product and one weight."""
    nodes = [
        helper.make_node("Reshape", ["time", "column"], ["t"]),
        helper.make_node("Reshape", ["strength", "column"], ["s"]),
        helper.make_node("Add", ["latents", "t"], ["noisy"]),
        helper.make_node("MatMul", ["noisy", "A"], ["low"]),
        helper.make_node("Mul", ["low", "s"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weight"], ["out"]),
    ]
    inputs = [
        value("latents", ["batch", 4, side, 8]),
        value("time", ["batch"]),
        value("strength", ["batch"]),
        value("A", [8, 2]),
    ]
    constants = [
        ("column", np.array([-1, 1, 1, 1], dtype=np.int64)),
        ("weight", np.ones((2, 8), dtype=np.float32)),
    ]
    return graph(nodes, inputs, [value("out", ["batch", 4, side, 8])], constants)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "deployment"
    out.mkdir()
    onnx.save(denoiser(), out / "denoiser.onnx")
    entries = [
        ("latents", "latents", [4, 8, 8]),
        ("time", "time", []),
        ("strength/image.scale", "strength", []),
        ("weights.lora/x/A", "tensor", [8, 2]),
    ]
    names = ["latents", "time", "strength", "A"]
    facts = {
        "schema": "pcs-onnx/2",
        "dtype": "float32",
        "latent_shape": [4, 8, 8],
        "files": {"denoiser.onnx": hashlib.sha256(b"x").hexdigest()},
        "graphs": {
            "denoiser": {
                "file": "denoiser.onnx",
                "rows": 63,
                "inputs": [
                    {"name": n, "kind": k, "shape": s, "graph_name": g, "dtype": "float32"}
                    for (n, k, s), g in zip(entries, names, strict=True)
                ],
            }
        },
    }
    (out / "manifest.json").write_text(json.dumps(facts))
    return out
