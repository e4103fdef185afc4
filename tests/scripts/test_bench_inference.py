"""The benchmark of engines: what it writes, how it counts, and what it refuses. No test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import onnxruntime
import openvino
import pytest
import torch
from inference import machine
from inference.engines import Counting
from inference.gate import INT8_BOUNDS, verdict
from inference.plot import bars
from inference.report import check, rounded
from inference.rounds import Budget, Timing, interleaved
from inference.rows import EAGER, INT8, KEYS, ONNX, rows_of, target
from inference.steps import Step, relative_error

from pcs_acceleration.flops import flops_of
from pcs_core import fit, load_recipe, open_backbone
from pcs_core.data import Concept, Subject

ROOT = Path(__file__).resolve().parents[2]
RATES = {"float32": 2.0, "int8": 8.0}


def timings(**seconds: float) -> dict[str, Timing]:
    return {label.replace("_", " "): Timing((s, s, s)) for label, s in seconds.items()}


def some_rows() -> list[dict]:
    known = timings(eager=4.0, onnx=2.0, onnx_int8=1.0)
    errors = {"eager": 0.0, "onnx": 1e-6, "onnx int8": 0.05}
    return rows_of("step", "mini", known, errors, flop=4 * 10**9, rates=RATES, network_rows=8)


def test_rows_name_what_they_are_compared_with() -> None:
    rows = some_rows()
    check(rows)
    assert [row["name"] for row in rows] == ["step: eager", "step: onnx", "step: onnx int8"]
    for row, side in zip(rows, (EAGER, ONNX, INT8), strict=True):
        assert set(KEYS) <= set(row)
        assert (row["engine"], row["dtype"]) == (side.engine, side.dtype)
        assert row["versus"] == "step: eager"
    assert [row["ratio"] for row in rows] == [1.0, 2.0, 4.0]
    # GFLOP a second over the machine's rate of the same dtype
    assert [row["share_of_matmul"] for row in rows] == [0.5, 1.0, 0.5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[1].pop("spread"), "lacks 'spread'"),
        (lambda rows: rows[1].update(versus="nothing"), "which is no row"),
        (lambda rows: rows[1].update(name="step: eager"), "two rows are called"),
    ],
)
def test_rows_that_cannot_be_followed_are_refused(change, reason: str) -> None:
    rows = some_rows()
    change(rows)
    with pytest.raises(ValueError, match=reason):
        check(rows)


def test_a_target_needs_more_than_speed() -> None:
    rows = {row["name"]: row for row in some_rows()}
    equal = {"also": lambda row: row["max_error"] <= 1e-5}
    assert target("fast", rows, "step: onnx", "ratio", 1.15, least=True, **equal)["met"] is True
    assert target("fast", rows, "step: onnx", "ratio", 2.5, least=True, **equal)["met"] is False
    wrong = target("fast", rows, "step: onnx int8", "ratio", 1.15, least=True, **equal)
    assert (wrong["found"], wrong["met"]) == (4.0, False)
    assert target("fast", rows, "step: compile", "ratio", 1.15, least=True)["met"] is None


def test_sides_take_turns_and_each_begins_a_round() -> None:
    calls: list[str] = []
    sides = {name: (lambda n=name: calls.append(n) or 1.0) for name in "abc"}
    timings = interleaved(sides, 3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert {len(t.values) for t in timings.values()} == {3}
    short = interleaved(sides, 9, goes_on=lambda _: False)
    assert {len(t.values) for t in short.values()} == {1}


def test_a_median_and_a_spread() -> None:
    assert Timing((1.0, 5.0, 2.0)).seconds == 2.0
    assert Timing((1.0, 5.0, 2.0)).spread == 4.0
    assert Timing((1.0, 2.0, 3.0, 4.0, 100.0)).spread == 2.0


def test_what_does_not_fit_is_listed() -> None:
    budget = Budget(10.0)
    assert budget.allows("short", 1.0)
    assert not budget.allows("long", 60.0)
    assert [s["part"] for s in budget.skipped] == ["long"]


LOSSES = {"identity": [0.0, 0.01] * 6, "psnr": [35.0, 36.0] * 6, "alignment": [0.01, -0.01] * 6}


def test_the_gate_calls_usable_what_loses_nothing() -> None:
    judged = verdict(LOSSES, INT8_BOUNDS, 1.0, trained=True)
    assert judged["usable"]
    assert not judged["reasons"]


@pytest.mark.parametrize(
    ("losses", "trained", "reason"),
    [
        (LOSSES | {"identity": [-0.05, -0.03] * 6}, True, "identity"),
        # the mean is fine, the lower end is not
        (LOSSES | {"identity": [0.0] * 9 + [-0.15] * 3}, True, "identity"),
        (LOSSES | {"psnr": [20.0] * 12}, True, "psnr"),
        (LOSSES, False, "not trained"),
        ({k: v[:4] for k, v in LOSSES.items()}, True, "10 at least are needed"),
    ],
)
def test_the_gate_refuses(losses: dict, trained: bool, reason: str) -> None:
    judged = verdict(losses, INT8_BOUNDS, 1.0, trained=trained)
    assert not judged["usable"]
    assert any(reason in why for why in judged["reasons"])


def test_sessions_are_counted_and_the_count_ends() -> None:
    before = onnxruntime.InferenceSession, torch.onnx.export, openvino.Core.compile_model
    with Counting() as counting:
        for _ in range(2):
            with pytest.raises(Exception):  # noqa: B017 - whatever the runtime raises
                onnxruntime.InferenceSession(b"no model")
        compiled = torch.compile(lambda x: x + 1, backend="eager")
        compiled(torch.zeros(2))
        with pytest.raises(RuntimeError):
            openvino.Core().compile_model("no model", "CPU")
    assert counting.rebuilds == 4  # two sessions, a graph, and one of OpenVINO
    assert counting.exports == 0
    after = onnxruntime.InferenceSession, torch.onnx.export, openvino.Core.compile_model
    assert before == after


def test_a_step_counts_the_work_and_is_the_loops_own() -> None:
    backbone = open_backbone("tiny")
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    subject = Subject("one", (Concept("one", "<one>", "dog"),), (picture,), (None,))
    settings = ["tune.steps=1", "weights.lora.sites=*.attn2.to_v"]
    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=settings)
    (artifact,) = fit(recipe, subject, backbone)
    counts, outputs = [], []
    for pictures in (1, 2):
        with Step(backbone, artifact, "a photo of <one>", pictures) as step:
            outputs.append(step())
            counts.append(flops_of(step))
            assert outputs[-1].shape == (2 * pictures, *backbone.latent_shape)
            assert not torch.equal(*outputs[-1].chunk(2))  # a negative and a positive branch
    # words and references were encoded before: only the network is counted, row by row
    assert counts[1] / counts[0] == pytest.approx(2, rel=0.01)
    assert relative_error(outputs[0], outputs[0]) == 0.0
    again = Step(backbone, artifact, "a photo of <one>", 1)
    with again:
        assert torch.equal(again(), outputs[0])


def test_flops_of_attention_and_where_nothing_has_gradients() -> None:
    q = torch.randn(1, 2, 8, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert flops_of(lambda: attend(q, q, q)) == 2 * 2 * (2 * 8 * 8 * 4)
    layer = torch.nn.Linear(4, 3)

    @torch.no_grad()
    def call() -> torch.Tensor:
        # a parameter's view under no_grad wants gradients and has no function for them
        return layer(layer.weight.expand(3, 4))

    assert flops_of(call) == 2 * 3 * 4 * 3


def test_the_machine_says_what_it_is() -> None:
    facts = machine.describe(1)
    assert facts["cores"] >= 1
    assert facts["processor"]
    assert set(machine.rates(("float32",), side=64)) == {"float32"}
    assert torch.__version__.startswith(machine.versions()["torch"])


def test_the_plot_has_a_bar_a_row() -> None:
    rows = some_rows()
    drawn = ElementTree.fromstring(bars(rows, "Seconds <by> engine", "a machine & its versions"))
    rectangles = [e for e in drawn if e.tag.endswith("rect")]
    assert len(rectangles) == 1 + len(rows)
    widths = [float(e.get("width", "0")) for e in rectangles[1:]]
    assert widths[0] == pytest.approx(4 * widths[2], rel=0.01)


def test_digits() -> None:
    assert rounded({"a": [1.23456789, None, True, "x"]}) == {"a": [1.2346, None, True, "x"]}


def rehearse(out: Path, *words: str) -> dict:
    command = [sys.executable, str(ROOT / "scripts" / "bench_inference.py"), "--tiny"]
    command += ["--minutes", "60", "--rounds", "1", "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict = json.loads(out.read_text("utf-8"))
    check(report["rows"])
    assert out.with_suffix(".svg").is_file()
    return report


@pytest.mark.rotated
def test_a_rehearsal_of_steps_and_switches(tmp_path: Path) -> None:
    report = rehearse(tmp_path / "found.json", "--parts", "switches")
    assert {"machine", "versions", "rows", "targets", "skipped"} <= set(report)
    rows = {row["name"]: row for row in report["rows"]}
    step = "step of 4 pictures with guidance: "
    assert rows[step + "onnx"]["max_error"] <= 1e-5
    assert rows[step + "onnx openvino"]["max_error"] <= 1e-5
    for side, provider in (("onnx", "cpu"), ("onnx openvino", "openvino")):
        assert 1e-5 < rows[f"{step}{side} int8"]["max_error"] < 0.5
        assert rows[step + side]["provider"] == rows[f"{step}{side} int8"]["provider"] == provider
    assert "provider" not in rows[step + "eager"]
    if step + "compile" in rows:
        assert rows[step + "compile"]["max_error"] <= 1e-5
    for what in ("subject", "strength"):
        for side in ("onnx", "onnx openvino"):
            row = rows[f"switch of {what}: {side}"]
            assert row["exports"] == row["rebuilds"] == 0


@pytest.mark.slow
def test_a_rehearsal_of_everything(tmp_path: Path) -> None:
    report = rehearse(tmp_path / "found.json")
    names = {row["name"] for row in report["rows"]}
    assert {row["engine"] for row in report["rows"]} == {"eager", "compile", "onnx"}
    assert "cold start to the first picture: onnx" in names
    assert {"switch of LoRA: onnx", "switch of LoRA: onnx openvino"} <= names
    assert any("sdxl with an image adapter" in name for name in names)
    models = {row["model"] for row in report["rows"]}
    assert {"tiny (mini)", "tiny (sd15)", "tiny (sdxl)"} <= models
    gates = {gate["of"]: gate for gate in report["gates"]}
    assert set(gates) == {"onnx int8", "onnx openvino int8", "fast"}
    assert not any(gate["usable"] for gate in gates.values())  # of networks without training


def test_unknown_parts_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench_inference.py"), "--parts", "lor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--parts lor: known are" in done.stderr
