"""Floors are what the lowest versions of the tests are, and no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINS = dict(
    line.split("==")
    for line in (ROOT / "requirements" / "lowest.txt").read_text("utf-8").splitlines()
    if "==" in line
)
# the toolchains of exporters have floors of their own, that these tests do not reach
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


@pytest.mark.parametrize("path", PROJECTS, ids=lambda p: p.parent.name)
def test_a_floor_is_a_version_that_was_tested(path: Path) -> None:
    project = tomllib.loads(path.read_text("utf-8"))["project"]
    lines = [*project.get("dependencies", [])]
    for extra in project.get("optional-dependencies", {}).values():
        lines += extra
    for line in lines:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[.*\])?>=([0-9.]+)", line)
        if match is None or match[1] not in PINS:
            continue
        pin, floor = PINS[match[1]].split("."), match[2].split(".")
        assert pin[: len(floor)] == floor, f"{line}: the lowest tested is {PINS[match[1]]}"


@pytest.mark.parametrize("path", PROJECTS, ids=lambda p: p.parent.name)
def test_caps_leave_room(path: Path) -> None:
    """A cap is the next major version: a minor one would shut out whoever keeps up to date."""
    project = tomllib.loads(path.read_text("utf-8"))["project"]
    for line in project.get("dependencies", []):
        cap = re.search(r"<([0-9.]+)", line)
        assert cap is None or line.startswith("pcs-") or "." not in cap[1], line
