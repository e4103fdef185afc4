"""What is shipped is whole, small, has a card, and is found by its id."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcs_core import load, load_recipe
from pcs_core.catalogue import catalogue
from pcs_mini_adapters import plugin


def test_only_what_is_there_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "WEIGHTS", tmp_path)
    assert plugin.adapters() == {}
    (tmp_path / "ip-adapter").mkdir()
    (tmp_path / "ip-adapter" / "manifest.json").write_text("{}")
    assert plugin.adapters() == {"ip-adapter@mini": "pcs_mini_adapters.plugin:ip_adapter"}


def test_every_system_has_its_folder() -> None:
    for system in plugin.SYSTEMS:
        folder = getattr(plugin, system.replace("-", "_"))()
        assert folder == plugin.WEIGHTS / system
        recipe = load_recipe(system, backbone="mini")
        assert any(phase.pretrain for phase in recipe.phases)


def test_shipped_weights_are_whole_and_small() -> None:
    adapters = plugin.adapters()
    if not adapters:
        pytest.skip("no weights in this checkout: `make adapters` trains them")
    for id in adapters:
        folder = catalogue().get("adapters", id)()
        adapter = load(folder)
        assert f"{adapter.recipe.id}@mini" == id
        assert adapter.concepts == ()
        card = (folder / "README.md").read_text("utf-8")
        assert adapter.backbone.hash[:12] in card
    size = sum(p.stat().st_size for p in plugin.WEIGHTS.rglob("*") if p.is_file())
    assert size <= 20_000_000
