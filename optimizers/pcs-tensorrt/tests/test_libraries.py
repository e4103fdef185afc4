"""Where TensorRT is missing, everything says so and how to get it; where it is here, the report decides."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from pcs_cli.main import main
from pcs_core import open_backbone, open_engine
from pcs_core.errors import CapabilityError, InputError
from pcs_tensorrt.libraries import diagnose, tensorrt


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "torch_tensorrt"):
        monkeypatch.setitem(sys.modules, name, None)


def test_importing_says_how_to_get_it(without: None) -> None:
    with pytest.raises(
        InputError, match=r"does not import .*NVIDIA's own package index.*pip install"
    ):
        tensorrt()


def test_the_doctor_takes_note(without: None, capsys: pytest.CaptureFixture[str]) -> None:
    lines = list(diagnose())
    assert [state for state, _ in lines] == ["note", "note"]  # missing is no fault
    assert all("pip install" in text for _, text in lines)
    main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [f["state"] for f in findings if f["subject"] == "tensorrt"] == ["note", "note"]


def test_an_old_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", type(sys)("tensorrt"))
    sys.modules["tensorrt"].__version__ = "8.6.1"
    with pytest.raises(InputError, match=r"TensorRT 8\.6\.1 is too old"):
        tensorrt()


def test_the_report_without_it(
    without: None, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tensorrt", "report", str(folder), "--out", str(tmp_path / "report.json")]) == 1
    facts = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert facts["built"] is facts["passed"] is False
    assert "pip install" in facts["missing"]
    assert facts["graphs"]["denoiser"]["trtexec"][0] == "trtexec"
    assert main(["tensorrt", "build", str(folder)]) == 2
    assert "pip install" in capsys.readouterr().err


def test_engines_refuse_by_name(without: None) -> None:
    tiny = open_backbone("tiny")
    with pytest.raises(CapabilityError, match="'tensorrt' runs an ONNX deployment"):
        open_engine(tiny, "tensorrt")
    with pytest.raises(InputError, match="Torch-TensorRT does not import"):
        open_engine(tiny, "torch-tensorrt")


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("tensorrt") is None,
    reason="needs TensorRT and a CUDA device",
)
def test_a_real_deployment_passes_its_report(tmp_path: Path) -> None:
    from pcs_core import export, load_recipe
    from pcs_tensorrt.engines import Options
    from pcs_tensorrt.reporting import report

    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=["weights.lora.rank=2"])
    export(recipe, tmp_path / "out", to="onnx", backbone="tiny")
    facts = report(tmp_path / "out", "10.15", Options(folder=str(tmp_path / "cache")))
    assert facts["passed"], facts
