"""Compare what each distribution imports with what it declares, by deptry.

    python scripts/declared.py

What one of them says of its own case stands in its own `pyproject.toml` (`[tool.deptry]`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def distributions() -> list[tuple[Path, str]]:
    """Return the folder and the package of each distribution that holds one."""
    projects = [*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("optimizers/*/pyproject.toml")]
    folders = [(p.parent, p.parent.name.replace("-", "_")) for p in sorted(projects)]
    return [(ROOT, "pcs_core"), *((f, p) for f, p in folders if (f / p).is_dir())]


def main() -> int:
    """Print what deptry finds, and return how many distributions it finds something in."""
    failed = 0
    for folder, package in distributions():
        done = subprocess.run(
            [sys.executable, "-m", "deptry", package, "--known-first-party", package, "--no-ansi"],
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
