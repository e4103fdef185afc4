"""Graphs that TensorRT is documented to refuse are named before a build."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from pcs_tensorrt.checks import check
from pcs_tensorrt.operators import SINCE, SUPPORTED, newest_opset, parse_target, takes

spec = importlib.util.spec_from_file_location("graphs", Path(__file__).with_name("conftest.py"))
assert spec is not None
assert spec.loader is not None
graphs: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(graphs)
value, graph = graphs.value, graphs.graph
FOUR = [2, 4, 8, 8]


def one(operator: str, names: list[str], *, shape=FOUR, opset=23, outputs=("y",), **attributes):
    node = helper.make_node(operator, names, list(outputs), **attributes)
    return graph(
        [node], [value(n, shape) for n in dict.fromkeys(names)], [value("y", shape)], opset=opset
    )


def test_a_good_graph_has_no_problem() -> None:
    for target in ((10, 14), (10, 15), (11, 0), (11, 5)):
        assert check(graphs.denoiser(), target) == []


def test_an_operator_that_is_not_taken() -> None:
    assert any(
        "operator Det: not taken" in p for p in check(one("Det", ["x"], shape=[2, 3, 3]), (10, 15))
    )
    made = one("Relu", ["x"])
    made.graph.node[0].domain = "com.example"
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    assert any("operator com.example:Relu: not taken" in p for p in check(made, (10, 15)))


def test_attention_by_version_and_shape() -> None:
    good = one("Attention", ["q", "k", "v"])
    assert check(good, (10, 14)) == []
    assert any("operator Attention: not taken before 10.14" in p for p in check(good, (10, 13)))
    flat = one("Attention", ["q", "k", "v"], shape=[2, 8, 8], q_num_heads=2, kv_num_heads=2)
    assert any("must have 4 axes" in p for p in check(flat, (10, 15)))
    assert any(
        "softcap" in p for p in check(one("Attention", ["q", "k", "v"], softcap=1.0), (10, 15))
    )


def test_opsets_by_version() -> None:
    made = one("Relu", ["x"])
    assert any("opset 23: TensorRT 10.3 reads 9 to 20" in p for p in check(made, (10, 3)))
    assert [newest_opset(t) for t in ((10, 0), (10, 14), (10, 16), (11, 4), (11, 5))] == [
        20,
        23,
        24,
        24,
        25,
    ]
    assert check(one("Relu", ["x"], opset=20), (10, 3)) == []


def test_an_axis_must_be_a_constant() -> None:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)
    inputs = [value("x", FOUR), value("axes", [1], TensorProto.INT64)]
    made = graph([node], inputs, [value("y", [2, 4, 8, "n"])])
    assert any("its input 'axes' must be a constant" in p for p in check(made, (10, 15)))
    fixed = graph(
        [node],
        [value("x", FOUR)],
        [value("y", [2, 4, 8, 1])],
        [("axes", np.array([3], dtype=np.int64))],
    )
    assert check(fixed, (10, 15)) == []


def test_cubic_resizing_is_refused() -> None:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="cubic")
    scales = [("scales", np.ones(4, dtype=np.float32))]
    made = graph([node], [value("x", FOUR)], [value("y", FOUR)], scales)
    assert any("mode 'cubic' is not taken" in p for p in check(made, (10, 15)))


def test_types_must_agree_and_be_there() -> None:
    mixed = graph(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [value("a", [2]), value("b", [2], TensorProto.FLOAT16)],
        [value("y", [2])],
    )
    assert any(p.startswith("types: ") for p in check(mixed, (10, 15)))
    double = graph(
        [helper.make_node("Neg", ["a"], ["y"])],
        [value("a", [2], TensorProto.DOUBLE)],
        [value("y", [2], TensorProto.DOUBLE)],
    )
    assert any("tensor 'a' is DOUBLE, which TensorRT has not" in p for p in check(double, (10, 15)))


def test_targets() -> None:
    assert parse_target("11.0.1") == (11, 0)
    assert not takes("Swish", (10, 15))
    assert takes("Swish", (11, 0))
    assert {"Swish", "DFT"}.isdisjoint(SUPPORTED)  # younger than the list
    assert set(SINCE) - SUPPORTED == {"Swish", "DFT"}


@pytest.mark.slow
def test_what_pcs_onnx_writes_is_buildable_as_documented(tmp_path: Path) -> None:
    from pcs_core import export, load_recipe
    from pcs_tensorrt import deployments, engines
    from pcs_tensorrt.profiles import span

    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=["weights.lora.rank=2"])
    export(recipe, tmp_path / "out", to="onnx", backbone="tiny")
    read = deployments.read(tmp_path / "out")
    for target in ((10, 14), (10, 15), (11, 0)):
        for plan in engines.plans(read, span(read), target).values():
            assert plan.problems == (), (target, plan.graph.name)
