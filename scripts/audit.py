"""Ask whether vulnerabilities are known of the versions that are installed, where that can be asked.

    python scripts/audit.py [--strict]

Runs pip-audit on `requirements/hashes.txt`. What it finds is printed; only with ``--strict`` it is an error,
since what the world learns overnight makes no change of this repository wrong. Without pip-audit (`make
tools` installs it) or without a network one line says so. What was found is kept for a day in `build/`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LISTED = ROOT / "requirements" / "hashes.txt"
KEPT = ROOT / "build" / "audit.json"
TOOL = ROOT / ".venv-tools" / "bin" / "pip-audit"
DAY, SECONDS = 86_400, 120


def report() -> Mapping[str, Any] | str:
    """Return what pip-audit says, or in one line why it says nothing."""
    if KEPT.is_file() and KEPT.stat().st_mtime > max(LISTED.stat().st_mtime, time.time() - DAY):
        kept: Mapping[str, Any] = json.loads(KEPT.read_text("utf-8"))
        return kept
    if not TOOL.is_file():
        return "pip-audit is not installed (make tools)"
    command = [str(TOOL), "-r", str(LISTED), "--disable-pip", "--require-hashes"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        said: Mapping[str, Any] = json.loads(ended.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return "nobody who knows can be reached"
    if not any("vulns" in one for one in said["dependencies"]):
        return "nobody who knows can be reached"
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps(said), encoding="utf-8")
    return said


def lines(said: Mapping[str, Any]) -> list[str]:
    """Return a line for each vulnerability that is known: the version, its name, and what mends it."""
    return [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in "
        f"{', '.join(flaw.get('fix_versions') or ()) or 'no version yet'}"
        for one in said["dependencies"]
        for flaw in one.get("vulns", ())
    ]


def main(arguments: list[str]) -> int:
    """Print what is known; return 1 for findings where ``--strict`` is given."""
    said = report()
    if isinstance(said, str):
        print(f"audit: not done: {said}")
        return 0
    flaws = lines(said)
    print("\n".join(flaws) or f"audit: nothing known of {len(said['dependencies'])} packages")
    return 1 if flaws and "--strict" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
