"""What may not be found in the tree: vague modules, unsafe loading, talk of what is outside."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SELF = Path(__file__).resolve()
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "stuff", "lib"}
TEXT = {".py", ".md", ".toml", ".txt", ".sh", ".json", ".yml", ".yaml", ".cfg", ""}

UNSAFE = {
    r"^\s*(?:import|from)\s+(?:pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal)\b": "pickle",
    r"\btorch\.load\((?![^)]*weights_only\s*=\s*True)": "torch.load without weights_only=True",
    r"trust_remote_code\s*=\s*True": "code from a hub",
    r"allow_pickle\s*=\s*True": "pickle in numpy",
    r"(?<![\w.])(?:eval|exec)\(": "code from text",
    r"yaml\.(?:unsafe_load|full_load|load)\(": "yaml that makes objects",
}
# written in pieces, so that this file may hold them
OUTSIDE = {
    "/wo" + "rk/": "a folder of one machine",
    "../sha" + "red": "a folder beside the checkout",
    "pypi." + "org": "an index's host",
    "/tm" + "p/": "a folder of one machine",
    "LEAD" + "-NOTE": "a note",
}


def tracked() -> list[Path]:
    """Return the files git knows, or all but caches where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode == 0:
        names = [n for n in listed.stdout.decode().split("\0") if n]
        return [p for n in names if (p := ROOT / n).is_file()]
    skipped = {".venv", ".git", "__pycache__", "build", "dist", "demo"}
    return [p for p in ROOT.rglob("*") if p.is_file() and not skipped & set(p.parts)]


FILES = tracked()
PYTHON = [p for p in FILES if p.suffix == ".py"]
# the suffix-less ones are LICENSE, Makefile and the like
TEXTS = [p for p in FILES if p.suffix in TEXT and p.stat().st_size < 1_000_000]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_look_at() -> None:
    assert len(PYTHON) > 50


def test_no_room_is_vague() -> None:
    offending = [
        name(p)
        for p in PYTHON
        if p.stem.strip("_") in VAGUE or set(p.relative_to(ROOT).parts[:-1]) & VAGUE
    ]
    assert not offending, f"say what is in it: {offending}"


@pytest.mark.parametrize("pattern", UNSAFE, ids=UNSAFE.values())
def test_nothing_unsafe(pattern: str) -> None:
    compiled = re.compile(pattern, re.MULTILINE)
    shipped = [p for p in PYTHON if "tests" not in p.relative_to(ROOT).parts]
    offending = [name(p) for p in shipped if compiled.search(p.read_text("utf-8"))]
    assert not offending


@pytest.mark.parametrize("words", OUTSIDE, ids=OUTSIDE.values())
def test_the_project_speaks_of_itself(words: str) -> None:
    texts = [p for p in TEXTS if p.resolve() != SELF]
    offending = [name(p) for p in texts if words.lower() in p.read_text("utf-8", "replace").lower()]
    assert not offending, f"{words!r} is in {offending}"


def test_every_module_says_what_it_is() -> None:
    missing = []
    for path in PYTHON:
        if "tests" in path.relative_to(ROOT).parts or path.name == "__init__.py":
            continue
        if not path.read_text("utf-8").lstrip().startswith(('"""', 'r"""')):
            missing.append(name(path))
    assert not missing
