"""OpenVINO reads the same folder: the network's pictures, compiled once, whoever is drawn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import openvino
import pytest
import torch
from onnx import TensorProto, helper

from pcs_cli.main import main
from pcs_core import export, fit, load_recipe, open_backbone, pretrain, sample, save
from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Personalization
from pcs_core.errors import InputError
from pcs_onnx import int8
from pcs_onnx.openvino_session import KEPT, OpenVinoSession
from pcs_onnx.runtime import load as load_deployment

pytestmark = pytest.mark.rotated(3, "file")

PROMPT = "a photo of <one> on the beach"
TOLERANCE = 1e-5
VERSION = openvino.__version__.split("-")[0]


def on_openvino(folder: Path, **options) -> Backbone:
    opened = load_deployment(folder, providers=["openvino"], **options)
    assert opened is not None
    return opened


def compiles(deployed) -> dict[str, int]:
    return {name: g.session.compiles for name, g in deployed.graphs.items() if g.providers}


@pytest.fixture(scope="module")
def artifacts(backbone: Backbone, subject) -> list[Personalization]:
    """Two LoRAs, of two ranks."""
    settings = ["tune.steps=2", "tune.lr=1e-2"]
    fitted = []
    for seed, rank in ((1, 4), (2, 2)):
        words = [*settings, f"weights.lora.rank={rank}"]
        recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=words)
        fitted += fit(recipe, subject(seed), backbone, seed=seed)
    return fitted


@pytest.fixture(scope="module")
def folder(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=["weights.lora.rank=4"])
    out = tmp_path_factory.mktemp("onnx") / "deployment"
    export(recipe, out, to="onnx", backbone=backbone)
    return out


def test_each_lora_draws_as_on_the_network_and_compiles_nothing(
    artifacts: list[Personalization], backbone: Backbone, folder: Path, trajectory, apart
) -> None:
    deployed = on_openvino(folder)
    drawn = [trajectory(artifacts[0], deployed)]
    once = compiles(deployed)
    assert once == {"text": 1, "keys": 1, "denoiser": 1, "decoder": 1}
    drawn.append(trajectory(artifacts[1], deployed))
    trajectory(artifacts[0], deployed)
    assert compiles(deployed) == once
    for artifact, actual in zip(artifacts, drawn, strict=True):
        assert apart(actual, trajectory(artifact, backbone)) <= TOLERANCE
    assert apart(drawn[0], drawn[1]) > 100 * TOLERANCE  # the conditioning is alive
    sample(artifacts[0], deployed, PROMPT, count=1, steps=1)  # another number of rows
    more = compiles(deployed)
    assert more == {**once, "denoiser": 2, "decoder": 2}  # what says the same in each step is open


def test_each_reference_and_strength(
    backbone: Backbone, subject, records, trajectory, apart, tmp_path: Path
) -> None:
    settings = ["encoders.image.model=tiny.image", "adapter.steps=2", "adapter.batch=2"]
    settings += ["adapter.lr=1e-2", "encoders.image.output=patches", "encoders.image.several=join"]
    recipe = load_recipe("ip-adapter", overrides=settings)
    adapter = pretrain(recipe, records(), backbone)
    export(recipe, tmp_path / "out", to="onnx", backbone=backbone, adapter=adapter)
    deployed = on_openvino(tmp_path / "out")
    drawn, counts = [], []
    for seed, references in ((1, 1), (2, 3), (3, 3)):
        (by_deployment,) = fit(recipe, subject(seed, references), deployed)
        (by_network,) = fit(recipe, subject(seed, references), backbone, adapter=adapter)
        for strength in (0.5, 1.0):
            options = {"strengths": {"image.scale": strength}}
            drawn.append(trajectory(by_deployment, deployed, **options))
            counts.append(compiles(deployed))
            assert apart(drawn[-1], trajectory(by_network, backbone, **options)) <= 2 * TOLERANCE
    for other in drawn[1:]:
        assert apart(drawn[0], other) > 3 * TOLERANCE
    # more references are more tokens, which is another shape of the denoiser's inputs, and of no other's
    assert [each.pop("denoiser") for each in counts] == [1, 1, 2, 2, 2, 2]
    assert all(each == counts[0] for each in counts)
    assert set(counts[0].values()) == {1}
    assert {"keys", "stream/image"} < set(counts[0])


def test_every_size_and_an_export_is_checked_by_onnx_runtime(
    backbone: Backbone,
    artifacts,
    trajectory,
    apart,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=["weights.lora.rank=4"])
    with monkeypatch.context() as context:
        context.setenv("PCS_ONNX_PROVIDERS", "openvino")
        export(recipe, tmp_path / "out", to="onnx", backbone=backbone, size="dynamic")
        deployed = open_backbone(tmp_path / "out")
    for size in ((32, 32), (48, 64)):
        actual = trajectory(artifacts[0], deployed.at(*size))  # type: ignore[attr-defined]
        known = open_backbone(tmp_path / "out").at(*size)  # type: ignore[attr-defined]
        assert apart(actual, trajectory(artifacts[0], known)) <= TOLERANCE
    assert compiles(deployed)["denoiser"] == 2


@pytest.mark.slow
def test_half_precision_graphs(backbone: Backbone, artifacts, trajectory, apart, tmp_path) -> None:
    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=["weights.lora.rank=4"])
    export(recipe, tmp_path / "out", to="onnx", backbone=backbone, dtype="fp16")
    actual = trajectory(artifacts[0], on_openvino(tmp_path / "out"))
    assert TOLERANCE < apart(actual, trajectory(artifacts[0], backbone)) < 2e-2


def test_int8(folder: Path, artifacts, tmp_path: Path, apart, trajectory) -> None:
    """The quantized file: near fp32, and not fp32."""
    plain = on_openvino(folder)
    with int8.recording(plain) as feeds:  # type: ignore[arg-type]
        for artifact in artifacts:
            sample(artifact, plain, PROMPT, steps=4)
    int8.quantize(folder, tmp_path / "small", feeds)
    small = on_openvino(tmp_path / "small")
    expected, actual = (trajectory(artifacts[0], on) for on in (plain, small))
    assert 1e-4 < apart(actual, expected) < 0.3
    assert apart(actual, trajectory(artifacts[1], small)) > 1e-4  # the subject tells
    assert compiles(small)["denoiser"] == 1


def graph(file: Path, operator: str, *inputs: tuple[str, int, list], **more) -> Path:
    """Write a graph of one node."""
    values = [helper.make_tensor_value_info(*i) for i in inputs]
    node = helper.make_node(operator, [i[0] for i in inputs], ["out"], **more)
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("none.such", 1)]
    model = helper.make_model(helper.make_graph([node], "g", values, [out]), opset_imports=opsets)
    onnx.save(model, str(file))
    return file


@pytest.fixture
def added(tmp_path: Path) -> OpenVinoSession:
    """A sum of rows and one constant, two rows a call."""
    kinds = ("a", TensorProto.FLOAT, ["b", 3]), ("c", TensorProto.FLOAT, [3])
    return OpenVinoSession(graph(tmp_path / "add.onnx", "Add", *kinds), 2)


def test_results_are_their_own(added: OpenVinoSession) -> None:
    rows, one = torch.arange(6.0).reshape(2, 3), torch.ones(3)
    (first,) = added([rows], [one])
    kept = first.clone()
    (second,) = added([rows], [10 * one])
    assert torch.equal(first, kept)
    assert torch.equal(first, rows + 1)
    assert torch.equal(second, rows + 10)
    rows += 100  # what was fed is the caller's
    assert torch.equal(first, kept)
    assert added.compiles == 1
    assert added.calls == 2


def test_rows_are_split_and_what_is_compiled_is_bounded(added: OpenVinoSession) -> None:
    rows = torch.arange(15.0).reshape(5, 3)
    (actual,) = added([rows.T.contiguous().T], [torch.ones(3)])  # not in a row's order either
    assert torch.equal(actual, rows + 1)
    assert (added.calls, added.compiles) == (3, 2)  # two, two, one
    added([rows], [torch.ones(3)])
    assert added.compiles == 2
    assert added.names == ["a", "c"]
    assert added.outputs == ["out"]


def test_the_last_used_stay(tmp_path: Path) -> None:
    kinds = ("a", TensorProto.FLOAT, ["b", "n"]), ("c", TensorProto.FLOAT, ["n"])
    session = OpenVinoSession(graph(tmp_path / "add.onnx", "Add", *kinds), 2)

    def run(width: int) -> int:
        session([torch.ones(1, width)], [torch.ones(width)])
        return session.compiles

    for width in range(1, KEPT + 1):
        run(width)
    assert run(1) == KEPT  # still there, and now the last used
    assert run(KEPT + 1) == KEPT + 1  # in the place of 2
    assert run(1) == KEPT + 1
    assert run(2) == KEPT + 2


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.int64, torch.bool])
def test_types(kind: torch.dtype, tmp_path: Path) -> None:
    number = helper.np_dtype_to_tensor_dtype(torch.zeros(1, dtype=kind).numpy().dtype)
    cast = {"to": TensorProto.FLOAT}
    session = OpenVinoSession(
        graph(tmp_path / "cast.onnx", "Cast", ("a", number, ["b", 2]), **cast), 8, fixed=False
    )
    for rows in (1, 3):
        value = torch.arange(2 * rows).reshape(rows, 2).to(kind)
        assert torch.equal(session([value])[0], value.float())
    assert session.compiles == 1


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    file = graph(
        tmp_path / "odd.onnx", "Twist", ("a", TensorProto.FLOAT, ["b", 2]), domain="none.such"
    )
    with pytest.raises(InputError, match=r"odd\.onnx: OpenVINO .* does not know none\.such\.Twist"):
        OpenVinoSession(file, 8)
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"bad\.onnx: OpenVINO .* refuses it"):
        OpenVinoSession(tmp_path / "bad.onnx", 8)


def test_shapes_that_do_not_fit_are_named(added: OpenVinoSession) -> None:
    with pytest.raises(InputError, match=r"add\.onnx: OpenVINO cannot compile it for inputs of"):
        added([torch.ones(2, 4)], [torch.ones(3)])


def test_threads_are_those_of_torch(added: OpenVinoSession) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        added([torch.ones(1, 3)], [torch.ones(3)])
        compiled = added._requests[(1, 3), (3,)].get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    finally:
        torch.set_num_threads(before)


def test_the_command_draws_and_says_what_ran(artifacts, folder: Path, tmp_path: Path) -> None:
    save(artifacts[0], tmp_path / "artifact")
    words = ["sample", str(tmp_path / "artifact"), PROMPT, "-n", "1", "--steps", "2"]
    words += ["--engine", "onnx", "--deployment", str(folder), "--device", "cpu"]
    out = tmp_path / "drawn"
    assert main([*words, "--option", "providers=openvino", "--out", str(out)]) == 0
    engine = json.loads((out / "sample.json").read_text("utf-8"))["engine"]
    assert engine["providers"]["denoiser"] == [f"OpenVINO {VERSION}"]
    assert engine["openvino"] == VERSION
    assert engine["chosen"] == ["openvino"]
    assert engine["precision"] == "fp32"
    assert "onnxruntime" not in engine


def test_it_needs_no_onnxruntime(artifacts, folder: Path, tmp_path: Path) -> None:
    save(artifacts[0], tmp_path / "artifact")
    code = f"""
import os, sys
for name in ("onnxruntime", "onnx", "onnxscript", "transformers"):
    sys.modules[name] = None  # as if it were not installed
os.environ["PCS_ONNX_PROVIDERS"] = "openvino"
from pcs_core import open_backbone, sample
deployed = open_backbone({str(folder)!r})
pictures = sample({str(tmp_path / "artifact")!r}, deployed, {PROMPT!r}, steps=2)
assert pictures.shape == (1, 3, 32, 32), pictures.shape
print(deployed.engine["providers"]["denoiser"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"['OpenVINO {VERSION}']"


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "openvino", None)
        yield


def test_a_missing_package_is_named_before_anything_is_read(
    missing: None, artifacts, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text((folder / "manifest.json").read_text("utf-8"))
    with pytest.raises(InputError, match=r"pip install pcs-onnx\[openvino\]"):
        on_openvino(tmp_path)
    save(artifacts[0], tmp_path / "artifact")
    words = ["sample", str(tmp_path / "artifact"), PROMPT, "--out", str(tmp_path / "drawn")]
    words += ["--engine", "onnx", "--deployment", str(folder), "--option", "providers=openvino"]
    assert main(words) == 2
    assert "pip install pcs-onnx[openvino]" in capsys.readouterr().err
    open_backbone(folder)  # and nothing else needs it


def test_the_doctor_says_what_is_here(missing: None) -> None:
    diagnose: Callable = catalogue().get("diagnoses", "onnx")
    lines = list(diagnose())
    assert lines[0][0] == "ok"
    assert "ONNX Runtime" in lines[0][1]
    assert lines[1][0] == "note"
    assert "pip install pcs-onnx[openvino]" in lines[1][1]
    sys.modules["openvino"] = openvino
    assert ("ok", f"OpenVINO {VERSION}") in list(diagnose())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "cuda", "providers": ["openvino"]}, "runs on the CPU here.*use --device cpu"),
        ({"providers": ["openvno"]}, "'openvno', did you mean 'openvino'.*known: cpu, cuda, tens"),
        ({"providers": ["openvino", "cpu"]}, "falls back to no other provider: name it alone"),
        ({"providers": ["openvino"], "precision": "bf61"}, "'bf61', did you mean 'bf16'"),
        ({"precision": "bf16"}, "is OpenVINO's: add providers=openvino"),
        ({"providers": ["openvino"], "disabled_optimizers": ["X"]}, "are ONNX Runtime's"),
    ],
)
def test_what_does_not_go_together(options: dict, reason: str, folder: Path) -> None:
    with pytest.raises(InputError, match=reason):
        load_deployment(folder, **options)


def test_bfloat16(
    folder: Path, artifacts, trajectory, apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in able:
        rounded = on_openvino(folder, precision="bf16")
        gap = apart(
            trajectory(artifacts[0], rounded), trajectory(artifacts[0], on_openvino(folder))
        )
        assert 10 * TOLERANCE < gap < 0.1
        assert rounded.engine["precision"] == "bf16"  # type: ignore[attr-defined]
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(InputError, match="has no bf16 .*FP32, INT8"):
        on_openvino(folder, precision="bf16")
