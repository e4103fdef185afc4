"""A short training from nothing is what was recorded, bit for bit."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "retraining.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="an installed package, no checkout")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("retraining", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def log(loss=0.5, digest="aa"):
    return {
        "images": 64,
        "cpu": "AVX2",
        "journal": [{"step": 1, "loss": 1.0}, {"step": 2, "loss": loss}],
        "sha256": {"model/unet": digest},
    }


def test_differences_name_the_first_line_and_the_files(script):
    assert script.differences(log(), log()) == []
    lines = script.differences(log(), log(loss=0.25, digest="bb"))
    assert len(lines) == 2
    assert "'step': 2" in lines[0]
    assert "0.25" in lines[0]
    assert lines[1] == "model/unet"
    assert script.differences(log(), {**log(), "cpu": "AVX512"})[0].startswith("cpu: recorded AVX2")
    assert script.differences(log(), {**log(), "journal": log()["journal"][:1]})


def test_a_log_leaves_the_clock_out(script, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x.safetensors").write_bytes(b"0")
    line = {"time": "now", "stage": "diffusion", "step": 1, "images_per_s": 3.0, "loss": 0.1}
    (tmp_path / "journal.jsonl").write_text(json.dumps(line) + "\n")
    recorded = script.log_of(tmp_path)
    assert recorded["journal"] == [{"stage": "diffusion", "step": 1, "loss": 0.1}]
    assert len(recorded["sha256"]["model/x.safetensors"]) == 64


@pytest.mark.slow
def test_the_recorded_training_is_made_again(script, tmp_path):
    if not script.LOG.exists():
        pytest.skip("no recorded log: python scripts/retraining.py --record")
    recorded = json.loads(script.LOG.read_text("utf-8"))
    here = script.machine()
    if other := [key for key in here if recorded[key] != here[key]]:
        pytest.skip(f"recorded with another {', '.join(other)}")
    assert script.differences(recorded, script.retrain(recorded["images"], tmp_path)) == []
