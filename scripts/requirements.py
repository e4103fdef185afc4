"""Print the third-party requirements of every distribution in this repository, one a line.

The project's own distributions are left out: they are installed from their folders, so that their
names are never looked up on an index. Needs the standard library only.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = ("bitsandbytes",)
"""Extras that are not installed to work on the project: diffusers imports this one, where it is there, with
every command, which takes 1.2 seconds longer and prints a warning. Its tests run where it is installed."""


def distributions() -> list[Path]:
    """Return the folders that hold a ``pyproject.toml``, the core's first."""
    projects = (*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("optimizers/*/pyproject.toml"))
    return [ROOT, *(p.parent for p in sorted(projects))]


def third_party() -> list[str]:
    """Return the requirements that are not distributions of this repository."""
    tables = [tomllib.loads((d / "pyproject.toml").read_text("utf-8")) for d in distributions()]
    local = {_normal(t["project"]["name"]) for t in tables}
    required = {line for t in tables for line in t["project"].get("dependencies", [])}
    required |= {line for t in tables for line in t.get("dependency-groups", {}).get("dev", [])}
    for table in tables:
        for lines in table["project"].get("optional-dependencies", {}).values():
            required |= set(lines)
    return sorted(line for line in required if _normal(_name(line)) not in {*local, *LEFT_OUT})


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    if match is None:
        raise SystemExit(f"not a requirement: {requirement!r}")
    return match[0]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for line in third_party()))
