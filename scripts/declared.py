"""Compare what each distribution imports with what it declares, by deptry.

    python scripts/declared.py

What one of them says of its own case stands in its own `pyproject.toml` (`[tool.deptry]`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE_HOLDS = "pcs-core=pcs_core|pcs_engine"
"""The one distribution with two packages."""


def distributions() -> list[tuple[Path, tuple[str, ...]]]:
    """Return the folder and the packages of each distribution that holds any."""
    projects = [*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("optimizers/*/pyproject.toml")]
    folders = [(p.parent, p.parent.name.replace("-", "_")) for p in sorted(projects)]
    return [
        (ROOT, ("pcs_core", "pcs_engine")),
        *((f, (p,)) for f, p in folders if (f / p).is_dir()),
    ]


def _holds(folder: Path) -> list[str]:
    """Return the packages whose names differ from their distributions; the option hides a project's own."""
    table = tomllib.loads((folder / "pyproject.toml").read_text("utf-8")).get("tool", {})
    names = table.get("deptry", {}).get("package_module_name_map", {})
    return [
        "--package-module-name-map",
        ",".join([CORE_HOLDS, *(f"{k}={v}" for k, v in names.items())]),
    ]


def main() -> int:
    """Print what deptry finds, and return how many distributions it finds something in."""
    failed = 0
    for folder, packages in distributions():
        first_party = [word for package in packages for word in ("--known-first-party", package)]
        done = subprocess.run(
            [sys.executable, "-m", "deptry", *packages, *first_party, *_holds(folder), "--no-ansi"],
            cwd=folder,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            failed += 1
            print(f"{folder.name}:\n{done.stderr.strip()}")
    print(f"{failed} distributions import what they do not declare" if failed else "declared: ok")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
