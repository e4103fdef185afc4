"""A fit and a drawing say the most memory that they took."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pcs_cli.main import main
from pcs_folders.pictures import write_png
from pcs_testing import make_picture

CODE = """
import torch
from pcs_cli.peak_memory import process_peak

before = process_peak()
if before is not None:
    ballast = torch.ones(before // 4 + 50_000_000)  # as much again, and 200 MB: fp32
    after = process_peak()
    del ballast
    print(after - before, process_peak() - after)
"""


@pytest.mark.rotated
def test_the_peak_grows_with_what_is_held_and_stays() -> None:
    """In a process of its own: this one may hold gigabytes by now, and as much again is too much."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    if not done.stdout:
        pytest.skip("not counted on this system")
    grown, later = map(int, done.stdout.split())
    assert grown > 100_000_000
    assert 0 <= later < 20_000_000


def test_both_commands_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rex").mkdir()
    write_png(make_picture(0), tmp_path / "rex" / "a.png")
    words = ["fit", "textual-inversion", str(tmp_path / "rex"), "--noun", "dog", "--token", "<rex>"]
    words += ["--backbone", "tiny", "--set", "token.steps=1", "--no-preview"]
    assert main([*words, "--out", str(tmp_path / "artifact")]) == 0
    said = r"peak memory \d+\.\d GB in all"
    assert re.search(rf"fitted in \d+ s, {said}; draw with:", capsys.readouterr().err)
    words = ["sample", str(tmp_path / "artifact"), "a <rex>", "-n", "1", "--steps", "1"]
    assert main([*words, "--out", str(tmp_path / "drawn")]) == 0
    assert re.search(rf"drawn, {said}", capsys.readouterr().err)
