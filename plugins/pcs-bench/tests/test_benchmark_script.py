"""The unattended benchmark, at its smallest: a run, a report, a study, and no second time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "benchmark.sh"


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists() or not shutil.which("bash"), reason="a checkout with bash")
def test_one_subject_one_prompt(tmp_path: Path) -> None:
    out, docs = tmp_path / "out", tmp_path / "docs"
    small = "--limit 1 --prompts 1 --seeds 1 --backbone tiny --device cpu --set sample.steps=2"
    environment = {
        **os.environ,
        "PCS": str(Path(sys.executable).with_name("pcs")),
        "DOCS": str(docs),
        "STUDY": f"{small} --metrics mini.clip-t,mini.clip-i --set tune.steps=4 --checkpoints 2",
    }
    words = f"{small} --systems lora-dreambooth,textual-inversion --workers 1"
    words += " --metrics mini.clip-t,mini.clip-i,mini.copy"
    words += " --set lora-dreambooth:tune.steps=2 --set textual-inversion:token.steps=2"

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT), str(out), *words.split()],
            env=environment,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )

    ended = run()
    assert ended.returncode == 0, ended.stderr
    names = {"report.html", "report.csv", "report.json", "report.tex", "watch.json"}
    assert {p.name for p in docs.iterdir()} == names
    claims = json.loads((docs / "report.json").read_text())["claims"]
    assert [c["verdict"] for c in claims] != ["not tested"] * 2
    assert "Pareto front" in claims[0]["answer"]
    assert "Repeating the references scores" in claims[1]["answer"]
    assert json.loads((docs / "watch.json").read_text())["summary"]["n"] == 1
    cells = (out / "run" / "cells.jsonl").read_bytes()
    ended = run()
    assert ended.returncode == 0
    assert "4 of 4 cells done, 4 of them before" in ended.stderr
    assert (out / "run" / "cells.jsonl").read_bytes() == cells
