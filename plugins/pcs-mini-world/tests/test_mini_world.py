"""The archive is found by its id, and what it holds is named with its licence."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from pcs_core.catalogue import catalogue
from pcs_mini_world import plugin

NOTICE = Path(__file__).parents[1] / "NOTICE.md"
FORBIDDEN = ("-SA", "-NC", "-ND", "GPL")


def test_the_catalogue_finds_the_archive():
    assert catalogue().get("datasets", "mini.world")() == plugin.archive()
    assert plugin.archive().name == "world.zip"


def test_every_source_is_named_with_its_licence():
    if not plugin.archive().exists():
        pytest.skip("no world.zip in this checkout: `pcs mini pack` makes it")
    with zipfile.ZipFile(plugin.archive()) as archive:
        index = json.loads(archive.read("index.json"))
    page = NOTICE.read_text("utf-8")
    assert index["sources"]
    for source in index["sources"]:
        line = next((row for row in page.splitlines() if f"`{source['package']}`" in row), "")
        assert line, f"NOTICE.md does not name {source['package']}"
        assert source["licence"] in page
    for name, about in index["solids"].items():
        assert f"| {name} | {about['credit']} |" in page
    assert plugin.archive().stat().st_size <= 40_000_000


def test_nothing_forbids_its_use():
    rows = [row for row in NOTICE.read_text("utf-8").splitlines() if row.startswith("|")]
    assert len(rows) > 10
    for row in rows:
        assert not any(word in row.split("|")[-2] for word in FORBIDDEN), row
