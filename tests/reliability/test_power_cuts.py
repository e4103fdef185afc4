"""A power cut of the trials takes away what no process of a command brought to the disk, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
COMMAND = f"""
import os, subprocess, sys
from pathlib import Path
sys.path.insert(0, {str(SCRIPTS)!r})
from reliability.disk_changes import POWER, DiskChanges

root, notes = map(Path, sys.argv[1:])
DiskChanges(root, 2, POWER, synced=notes).watch()
worker = '''
import os, sys
sys.path.insert(0, {str(SCRIPTS)!r})
import reliability.disk_changes
for name in ("kept", "lost"):
    with open(name, "w") as file:
        file.write("by a worker")
        file.flush()
        name == "kept" and os.fsync(file.fileno())
'''
subprocess.run([sys.executable, "-c", worker], cwd=root, check=True)
with open(root / "own", "w") as file:
    file.write("by the first process")
    file.flush()
    os.fsync(file.fileno())
os.mkdir(root / "second")
"""


def test_what_a_worker_synchronised_is_there_after_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "before").write_text("long before")
    words = [sys.executable, "-c", COMMAND, str(root), str(tmp_path / "notes")]
    assert subprocess.run(words).returncode == 77
    there = {path.name: path.read_text() for path in root.iterdir()}
    assert there == {
        "before": "long before",
        "kept": "by a worker",
        "lost": "",
        "own": "by the first process",
    }
