"""Threads sleep while they wait, and are no more than a container's share, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pcs_core import threads

SHOWN = "import os; print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in __import__('sys').modules)"


def environment(code: str, **given: str) -> list[str]:
    """Return what a fresh process prints."""
    left = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**left, **given}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_they_sleep_once_pcs_is_imported() -> None:
    assert environment(f"import pcs_core; {SHOWN}") == ["PASSIVE", "False"]


def test_what_the_user_says_stays() -> None:
    assert environment(f"import pcs_core; {SHOWN}", OMP_WAIT_POLICY="ACTIVE") == ["ACTIVE", "False"]


def test_behind_torch_it_is_too_late_and_nothing_is_set() -> None:
    # a module of that name is enough: the real one takes seconds to load
    fake = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')"
    assert environment(f"{fake}; import pcs_core; {SHOWN}") == ["None", "True"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "\n"}, None),
        ({"cpu.cfs_quota_us": "300000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_share_is_whole_cores(
    files: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / name for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    newer, older, period = map(str, places)
    monkeypatch.setattr(threads, "QUOTAS", ((newer, None), (older, period)))
    assert threads.quota() == expected


@pytest.mark.parametrize(
    ("share", "there", "expected"), [(2, 64, "2"), (4, 4, None), (None, 64, None)]
)
def test_no_more_threads_than_the_share(
    share: int | None, there: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "quota", lambda: share)
    monkeypatch.setattr(threads, "cores", lambda: there)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in (threads.COUNT, threads.POLICY):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    threads.set_up_threads()
    assert os.environ.get(threads.COUNT) == expected
    monkeypatch.setenv(threads.COUNT, "7")
    threads.set_up_threads()
    assert os.environ[threads.COUNT] == "7"
