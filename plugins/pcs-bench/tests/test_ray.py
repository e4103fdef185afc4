"""Cells spread over a Ray cluster of this machine; a worker that is killed loses nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pcs_bench.suites import make
from pcs_cli.main import main
from pcs_core import write_png
from pcs_testing import make_picture

CELLS = 3 * 2 * 2
SETTINGS = ["--set", "lora-dreambooth:tune.steps=150", "--set", "sample.steps=2"]


def suite(folder: Path) -> Path:
    for name, seed in (("fido", 1), ("rex", 5)):
        for number in range(2):
            write_png(make_picture(seed + number), folder / name / f"{number}.png")
    return make(folder, ["dog"])


def words(path: Path, out: Path) -> list[str]:
    given = ["bench", "run", str(path), "--systems", "lora-dreambooth", "--seeds", "1"]
    given += ["--prompts", "2", "--backbone", "tiny", "--metrics", "", "--device", "cpu", *SETTINGS]
    return [*given, "--engine", "ray", "--workers", "2", "--out", str(out)]


def workers_of(pid: int) -> list[int]:
    """Return the processes that do a Ray task and descend from ``pid``."""
    parents, at_work = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "status").read_text().split("PPid:\t")[1].split("\n")[0]
            title = (folder / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        parents[int(folder.name)] = int(fields)
        if title.startswith(b"ray::remote_job"):
            at_work.append(int(folder.name))

    def descends(child: int) -> bool:
        while child in parents and child != pid:
            child = parents[child]
        return child == pid

    return [child for child in at_work if descends(child)]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="pip install 'pcs-bench[ray]'")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    path, out = suite(tmp_path / "photos"), tmp_path / "out"
    run = subprocess.Popen(
        [sys.executable, "-m", "pcs_cli.main", *words(path, out)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline, victim = time.monotonic() + 1200, 0
    while not victim and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        if list(out.glob("fits/*.work")):  # a fit is under way
            victim = next(iter(workers_of(run.pid)), 0)
    said = "" if victim else (run.communicate(timeout=60)[1] or "")
    assert victim, said
    os.kill(victim, signal.SIGKILL)
    said = run.communicate(timeout=1200)[1]
    assert run.returncode == 0, said
    lines = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    assert len(lines) == CELLS
    assert set(Counter(line["key"] for line in lines).values()) == {1}
    assert {line["state"] for line in lines} == {"done"}
    assert f"{CELLS} of {CELLS} cells done" in said
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("pictures/*/*.png")}
    # the same folder goes on with another engine: nothing is left to do, and nothing is redone
    local = [word if word != "ray" else "inline" for word in words(path, out)]
    assert main(local) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("pictures/*/*.png")} == stamps


def test_without_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = suite(tmp_path / "photos")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else find(name)
    )
    assert main(words(path, tmp_path / "out")) == 2
    assert "pip install 'pcs-bench[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
