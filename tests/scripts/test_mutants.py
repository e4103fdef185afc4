"""Which mutants are drawn, and what is run against them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from mutation import guards
from mutation.report import Tried, report
from mutation.sample import candidates, draw, shares

from pcs_core.catalogue import catalogue

SOURCE = """\
def double(x: int | None, y: "a + b" = 2) -> int | str:
    z: int | float = 1 + 1
    return x * y
"""


@dataclass(frozen=True)
class At:
    """A mutation at a place."""

    start_pos: tuple[int, int]
    operator_name: str = "any"
    occurrence: int = 0


def test_annotations_are_not_mutated() -> None:
    first, second, third = SOURCE.splitlines()
    inside = [At((1, first.index(w))) for w in ("| None", "+ b", "| str")]
    inside.append(At((2, second.index("| float"))))
    outside = [
        At((1, first.index("2)"))),
        At((2, second.index("+ 1"))),
        At((3, third.index("* y"))),
    ]
    assert candidates([*inside, *outside], SOURCE) == sorted(outside, key=lambda m: m.start_pos)


def test_every_file_gives_its_least_and_the_sum_is_reached() -> None:
    share = shares({"large": 1000, "middle": 100, "small": 3}, count=60, least=5)
    assert share["small"] == 3  # all it has
    assert share["middle"] >= 5
    assert share["large"] > share["middle"]
    assert 60 <= sum(share.values()) <= 63
    assert shares({"a": 4}, count=60, least=5) == {"a": 4}
    assert shares({"a": 50, "b": 50}, count=0, least=5) == {"a": 5, "b": 5}


def test_a_sample_is_the_same_for_a_seed() -> None:
    mutations = [At((line, 0)) for line in range(100)]
    first = draw(mutations, 10, 0, "a")
    assert first == draw(mutations, 10, 0, "a")
    assert first != draw(mutations, 10, 1, "a")
    assert first != draw(mutations, 10, 0, "b")
    assert first == sorted(set(first), key=lambda m: m.start_pos)
    assert len(first) == 10


@pytest.mark.parametrize("technique", catalogue().ids("techniques"))
def test_every_technique_has_guards(technique: str) -> None:
    stages = dict(guards.stages(technique))
    assert stages["contract"][1:] == ("-k", technique)
    for selection in stages.values():
        assert all((guards.ROOT / t.partition("::")[0]).is_file() for t in selection if ".py" in t)
    used = guards.systems_of(technique)
    assert sum(name.startswith("check of ") for name in stages) == min(len(used), guards.SYSTEMS)


def test_a_lora_is_guarded_by_its_tests_and_its_systems() -> None:
    stages = dict(guards.stages("weights.lora"))
    assert "plugins/pcs-weights/tests/test_lora_kv_full.py" in stages["unit tests"]
    assert "check of lora-dreambooth" in stages


def test_what_does_not_load_counts_as_killed(tmp_path: Path) -> None:
    command = [sys.executable, str(guards.ROOT / "scripts/mutation/guards.py"), "weights.nothing"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "stopped by: loading" in done.stdout


def test_the_report_counts_and_lists_survivors() -> None:
    tried = [
        Tried("a.b", "a/b.py", 3, "core/Add", "unit tests", "-x\n+y"),
        Tried("a.b", "a/b.py", 4, "core/Not", "check of some", "-u\n+v"),
        Tried("a.c", "a/c.py", 5, "core/Mul", "", "-p\n+q"),
    ]
    page = report(tried, 7, ["a.d"], 0.85)
    assert "2 of 3 mutants are killed, 66.7 %" in page
    assert "7 of the sample" in page
    assert "| `a.b` | 2 | 2 | 1 | 0 | 0 | 1 | 0 |" in page
    assert "`a/c.py:5`" in page
    assert "-p\n+q" in page
    assert "-u\n+v" not in page
    assert "`a.d`" in page
