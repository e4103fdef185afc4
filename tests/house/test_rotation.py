"""As many days of `make test` as a mark `rotated` says see each test that bears it, once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = """
import pytest

@pytest.mark.rotated
@pytest.mark.parametrize("n", range(5))
def test_of_many(n): pass

@pytest.mark.rotated
def test_alone(): pass

@pytest.mark.rotated(2)
@pytest.mark.parametrize("n", range(3))
def test_in_two_days(n): pass

def test_each_day(): pass
"""


TOGETHER = """
import pytest

pytestmark = pytest.mark.rotated(3, "file")

@pytest.mark.parametrize("n", range(4))
def test_shares(n): pass

def test_shares_too(): pass
"""


def test_all_are_seen(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FILE)
    (tmp_path / "test_together.py").write_text(TOGETHER)
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text("utf-8"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow:\n    rotated:\n")
    code = (
        "import os, sys, pytest\n"
        "for day in ('739000', '739001', '739002'):\n"
        "    os.environ['PCS_DAY'] = day\n"
        "    pytest.main(['-q', '--collect-only', '-m', 'not slow', '-p', 'no:cacheprovider'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = [line.partition("::") for line in done.stdout.splitlines() if "::" in line]
    seen = [name for file, _, name in lines if "together" not in file]
    shared = [*(f"test_shares[{n}]" for n in range(4)), "test_shares_too"]
    assert [name for file, _, name in lines if "together" in file] == shared  # once, on one day
    each = [f"test_of_many[{n}]" for n in range(5)]
    of_two = Counter(name for name in seen if name.startswith("test_in_two_days"))
    assert {of_two[f"test_in_two_days[{n}]"] for n in range(3)} == {1, 2}  # of three days in a row
    others = [name for name in seen if name not in of_two]
    assert sorted(others) == sorted([*each, "test_alone", *["test_each_day"] * 3])
