"""A run that is killed goes on where it was; a worker that is killed loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "killed_run.py"
CELLS = 3 * 2 * 2 * 2


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), *more],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def lines(folder: Path) -> list[dict[str, object]]:
    path = folder / "cells.jsonl"
    raw = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in raw]


def alive(parent: int) -> list[int]:
    """Return the processes that run the script in this test's folder or were started by ``parent``."""
    pids = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(
                line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
            )
        except OSError:
            continue
        if fields.get("PPid") == str(parent):
            pids.append(int(fields["Pid"]))
    return pids


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
def test_a_killed_run_goes_on_without_redoing_or_losing_a_cell(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begun = start(folder, "1")
    deadline = time.monotonic() + 900
    while len(lines(folder)) < 6 and begun.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = alive(begun.pid)
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    before = lines(folder)
    assert 6 <= len(before) < CELLS, begun.stderr.read() if begun.stderr else ""
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("pictures/*/*.png")}
    for worker in workers:  # none outlives the one that started it
        while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not Path(f"/proc/{worker}").exists()
    ended = start(folder, "1")
    assert ended.wait(timeout=900) == 0
    after = lines(folder)
    assert after[: len(before)] == before
    assert max(Counter(str(line["key"]) for line in after).values()) == 1
    assert len(after) == CELLS
    assert all(line["state"] == "done" for line in after)
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    assert len([p for p in (folder / "fits").iterdir() if p.is_dir()]) == 2 * 2
    text = ended.stderr.read() if ended.stderr else ""
    assert f"{CELLS}/{CELLS} cells" in text
    assert "left" in text
    # an unbroken run draws the same bits
    whole = tmp_path / "whole"
    assert start(whole, "1").wait(timeout=900) == 0
    same = {str(line["key"]): line["sha256"] for line in lines(whole)}
    assert same == {str(line["key"]): line["sha256"] for line in after}


@pytest.mark.slow
@pytest.mark.parametrize(("dies", "failed"), [("once", 0), ("always", 8)])
def test_a_worker_that_dies_loses_nothing(tmp_path: Path, dies: str, failed: int) -> None:
    run = start(tmp_path, "2", dies)
    assert run.wait(timeout=900) == (3 if failed else 0)
    by_key = {str(line["key"]): line for line in lines(tmp_path)}
    assert len(by_key) == CELLS
    broken = [line for line in by_key.values() if line["state"] == "failed"]
    assert len(broken) == failed
    assert all("signal 9" in str(line["error"]) for line in broken)
    assert all(line["system"] == "textual-inversion" for line in broken)
