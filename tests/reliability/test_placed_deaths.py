"""A command that dies before any change of the disk's names loses nothing, and the next one cleans up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def deaths(folder: Path, *more: str, broken: str = "") -> subprocess.CompletedProcess[str]:
    """Run the placed deaths of the journal; ``broken`` is run first."""
    start = f"{broken}\nimport runpy; runpy.run_module('reliability.journal', run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", start, str(folder), *more],
        cwd=SCRIPTS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.rotated
def test_a_part_of_all_deaths_loses_nothing(tmp_path: Path) -> None:
    done = deaths(tmp_path, "25")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 25


@pytest.mark.slow
def test_every_death_loses_nothing_whatever_comes_next(tmp_path: Path) -> None:
    done = deaths(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


UNNOTED = """
from pcs_cli.claims import Claim
Claim.making = lambda claim, path: None
"""


NOT_WRITTEN_THROUGH = """
from pcs_cli import output_folder
output_folder.write_through = lambda *paths: None
"""


@pytest.mark.rotated
@pytest.mark.parametrize(
    ("broken", "kind", "step"),
    [(UNNOTED, "left", "27"), (NOT_WRITTEN_THROUGH, "lost", "9")],
    ids=["left", "power"],
)
def test_a_death_that_leaves_or_loses_something_is_seen(
    tmp_path: Path, broken: str, kind: str, step: str
) -> None:
    done = deaths(tmp_path, step, broken=broken)
    assert done.returncode == 1
    assert f": {kind}:" in done.stdout
    shutil.rmtree(tmp_path, ignore_errors=True)
