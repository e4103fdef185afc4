"""Distributions made for one test, found by the real discovery."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that puts a distribution with one plugin module on ``sys.path``."""
    monkeypatch.delenv("PCS_PLUGINS", raising=False)
    before = set(sys.modules)

    def make(
        distribution: str, plugin: str, files: dict[str, str] | None = None, *, name: str = ""
    ) -> Path:
        package = distribution.replace("-", "_")
        root = tmp_path / "site" / distribution
        for path, text in {
            f"{package}/__init__.py": "",
            f"{package}/plugin.py": textwrap.dedent(plugin),
            **(files or {}),
        }.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(textwrap.dedent(text), encoding="utf-8")
        info = root / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n", encoding="utf-8"
        )
        entry = f"[pcs.plugins]\n{name or distribution.removeprefix('x-')} = {package}.plugin\n"
        (info / "entry_points.txt").write_text(entry, encoding="utf-8")
        monkeypatch.syspath_prepend(str(root))
        return root

    yield make
    for module in set(sys.modules) - before:
        if module.startswith("x_"):
            del sys.modules[module]
