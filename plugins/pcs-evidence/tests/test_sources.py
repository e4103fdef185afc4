"""The hash of what evidence follows from changes with each part of it, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcs_core.catalogue import Catalogue
from pcs_core.catalogue.discovery import FoundPlugin
from pcs_core.catalogue.holdings import Holdings
from pcs_evidence import written

TECHNIQUE = """
import {library}
RATE = {rate}
"""
RECIPE = """
[recipe]
id = "toy"
notes = "{notes}"
[[use]]
technique = "toy.one"
rank = {rank}
[[phase]]
name = "all"
steps = 2
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "toy_of_sources"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path)
    return tmp_path


def write(
    folder: Path, *, notes: str = "", rank: int = 4, rate: int = 1, library: str = "math"
) -> None:
    (folder / "toy.toml").write_text(RECIPE.format(notes=notes, rank=rank))
    text = TECHNIQUE.format(library=library, rate=rate)
    (folder / "toy_of_sources" / "one.py").write_text(f"# {notes}\n{text}")


def sources(folder: Path, *, tuned: bool = False) -> str | None:
    import pcs_evidence.code_hash as code_hash
    import pcs_evidence.sources as module

    code_hash.reached.cache_clear()
    code_hash._module_hash.cache_clear()
    module._importable.cache_clear()
    tuning = {}
    if tuned:
        (folder / "other.toml").write_text("[sample]\nsteps = 3\n")
        tuning = {("mini", "toy"): folder / "other.toml"}
    plugin = FoundPlugin("toy", "toy", "1", "toy", None)
    holdings = Holdings(
        plugin,
        {"techniques": {"toy.one": "toy_of_sources.one:One"}},
        {"toy": folder / "toy.toml"},
        tuning=tuning,
    )
    now = written("toy", "mini", Catalogue([holdings]))
    return now.sources if now else None


def test_notes_and_comments_change_nothing(parts: Path) -> None:
    before = sources(parts)
    write(parts, notes="another word")
    assert before == sources(parts) is not None


def test_numbers_code_and_overlays_do(parts: Path) -> None:
    seen = {sources(parts), sources(parts, tuned=True)}
    write(parts, rank=8)
    seen.add(sources(parts))
    write(parts, rate=2)
    seen.add(sources(parts))
    assert len(seen) == 4
    assert None not in seen


def test_a_library_that_is_not_installed_is_left_to_resolving(parts: Path) -> None:
    write(parts, library="no_such_library_anywhere")
    assert sources(parts) is None
