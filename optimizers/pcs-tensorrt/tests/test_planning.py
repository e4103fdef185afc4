"""Profiles, keys and command lines: all that is decided before TensorRT is asked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import onnx
import pytest

from pcs_cli.main import main
from pcs_core.errors import InputError
from pcs_tensorrt import deployments, engines, keys
from pcs_tensorrt.profiles import profile, span
from pcs_tensorrt.reporting import planned

PLATFORM = {"tensorrt": "10.15.1", "cuda": "13.0", "gpu": "H100", "compute": "9.0", "driver": "1"}


def test_a_profile_follows_manifest_and_graph(folder: Path) -> None:
    read = deployments.read(folder)
    model = onnx.load(folder / "denoiser.onnx")
    shapes = profile(read.graphs["denoiser"], model, span(read, pictures=4))
    assert shapes["latents"] == ((1, 4, 8, 8), (8, 4, 8, 8), (8, 4, 8, 8))
    assert shapes["time"] == ((1,), (8,), (8,))
    assert shapes["A"] == ((8, 2),) * 3  # what every row shares has no batch
    exact = profile(
        read.graphs["denoiser"], model, span(read, pictures=2, guided=False, fixed=True)
    )
    assert exact["latents"] == ((2, 4, 8, 8),) * 3


def test_sides_grow_with_the_latents(folder: Path) -> None:
    read = dataclasses.replace(deployments.read(folder), step=4)
    model = onnx.load(folder / "denoiser.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    shapes = profile(read.graphs["denoiser"], model, span(read, sides=(4, 16)))
    assert [shape[2] for shape in shapes["latents"]] == [4, 8, 16]
    assert [shape[3] for shape in shapes["latents"]] == [8, 8, 8]  # the graph fixes it
    with pytest.raises(InputError, match="must enclose 8 and be multiples of 4"):
        span(read, sides=(6, 16))
    with pytest.raises(InputError, match="one size only"):
        span(deployments.read(folder), sides=(4, 16))


def test_references_are_few_or_many(folder: Path) -> None:
    """Open axes of features, tokens and their keys do not grow with the latents."""
    read = deployments.read(folder)
    read.graphs["denoiser"].inputs[0]["kind"] = "key"  # type: ignore[index]
    model = onnx.load(folder / "denoiser.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "slots"
    shapes = profile(read.graphs["denoiser"], model, span(read))
    assert [shape[2] for shape in shapes["latents"]] == [1, 8, 64]


def test_more_rows_than_a_graph_takes(folder: Path) -> None:
    with pytest.raises(InputError, match="64 rows a call: the graphs take 1 to 63"):
        span(deployments.read(folder), pictures=32)


def test_manifest_and_graph_must_agree(folder: Path) -> None:
    read = deployments.read(folder)
    model = onnx.load(folder / "denoiser.onnx")
    model.graph.input[3].name = "B"
    with pytest.raises(InputError, match="input 'A' is not in both"):
        profile(read.graphs["denoiser"], model, span(read))


def test_everything_an_engine_depends_on_is_in_its_key(folder: Path) -> None:
    read = deployments.read(folder)
    plan = engines.plans(read, span(read), (10, 15))["denoiser"]
    larger = engines.plans(read, span(read, pictures=5), (10, 15))["denoiser"]
    options = engines.Options()
    other = dataclasses.replace(plan.graph, hashes={"denoiser.onnx": "other"})
    variants = [
        (plan.graph, plan.profile, "float32", options.facts(), PLATFORM),
        (other, plan.profile, "float32", options.facts(), PLATFORM),
        (plan.graph, larger.profile, "float32", options.facts(), PLATFORM),
        (plan.graph, plan.profile, "float16", options.facts(), PLATFORM),
        (plan.graph, plan.profile, "float32", engines.Options(refit=True).facts(), PLATFORM),
        *(
            (plan.graph, plan.profile, "float32", options.facts(), {**PLATFORM, name: "other"})
            for name in PLATFORM
        ),
    ]
    hashes = [keys.key(keys.facts(*variant)) for variant in variants]
    assert len(set(hashes)) == len(variants)
    assert keys.key(keys.facts(*variants[0])) == hashes[0]


def test_the_cache_is_asked_by_key(folder: Path, tmp_path: Path) -> None:
    read = deployments.read(folder)
    plan = engines.plans(read, span(read), (10, 15))["denoiser"]
    options = engines.Options(folder=str(tmp_path))
    key = keys.key(keys.facts(plan.graph, plan.profile, "float32", options.facts(), PLATFORM))
    (tmp_path / f"{key}.plan").write_bytes(b"plan")
    # no module is needed where the engine is there
    assert engines.engine(None, plan, "float32", options, PLATFORM) == (b"plan", key, False)


def test_engines_lie_in_the_cache_of_pcs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PCS_TENSORRT_CACHE", raising=False)
    monkeypatch.setenv("PCS_CACHE", str(tmp_path))
    assert engines.Options().cache == tmp_path / "tensorrt"
    monkeypatch.setenv("PCS_TENSORRT_CACHE", "/elsewhere")
    assert engines.Options().cache == Path("/elsewhere")
    assert engines.Options(folder="/given").cache == Path("/given")


@pytest.mark.parametrize(("target", "flag"), [("10.15", True), ("11.0", False)])
def test_command_lines(folder: Path, target: str, flag: bool) -> None:
    facts = planned(folder, target, engines.Options(folder="/cache", refit=True))
    words = facts["graphs"]["denoiser"]["trtexec"]
    assert words[0] == "trtexec"
    assert "--minShapes=latents:1x4x8x8,time:1,strength:1,A:8x2" in words
    assert "--maxShapes=latents:8x4x8x8,time:8,strength:8,A:8x2" in words
    assert "--timingCacheFile=/cache/timing.cache" in words
    assert "--refit" in words
    assert ("--stronglyTyped" in words) is flag  # 11.x knows no other kind
    assert not any(w.startswith(("--fp16", "--bf16", "--int8", "--best")) for w in words)


def test_the_command_plans_without_tensorrt(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tensorrt", "plan", str(folder)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["graphs"]["denoiser"]["problems"] == []
    assert main(["tensorrt", "plan", str(folder), "--target", "9.2"]) == 2
    assert "write a TensorRT version from 10.0 on" in capsys.readouterr().err
    assert main(["tensorrt", "plan", str(folder / "no")]) == 2
    assert "is no ONNX deployment" in capsys.readouterr().err
