"""The README's lines `pip install ...` bring all that they need: nothing of PCS lies on an index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^pip install (.+?)(?: +#.*)?$", re.MULTILINE)


def folders(words: str) -> list[Path]:
    """Return the folders that a shell makes of the arguments."""
    paths: list[str] = []
    for word in words.split():
        head, brace, rest = word.partition("{")
        names, _, tail = rest.partition("}")
        paths += [f"{head}{name}{tail}" for name in names.split(",")] if brace else [word]
    return [ROOT / path for path in paths]


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]


def test_installs_bring_what_they_need() -> None:
    lines = LINE.findall((ROOT / "README.md").read_text("utf-8"))
    assert len(lines) >= 3
    installed: set[str] = set()
    for words in lines:
        if words == "./plugins/pcs-all":
            continue  # it names every sibling by itself
        projects = [project(folder) for folder in folders(words)]
        installed |= {p["name"] for p in projects}
        for p in projects:
            needs = {re.split(r"[<>=\[; ]", text)[0] for text in p.get("dependencies", [])}
            missing = {name for name in needs if name.startswith("pcs-")} - installed
            assert not missing, f"pip install {words}: {p['name']} needs {sorted(missing)}"
