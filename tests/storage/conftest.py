"""A fitted subject of a real technique."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from pcs_core.assembly import load_recipe
from pcs_core.catalogue import Catalogue, FoundPlugin
from pcs_core.catalogue.holdings import Holdings
from pcs_core.data import BackboneCard, Concept, Personalization

TOYS = """
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique


class Shift(Technique):
    id = "toy.shift"
    rank: int = 4

    @hookimpl
    def fuse(self, run):
        return None
"""
RECIPE = """\
# a recipe, café
[recipe]
id = "toy"
[[use]]
technique = "toy.shift"
rank = 8
[[phase]]
name = "p"
steps = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty subject folder."""
    path = tmp_path / "rex"
    path.mkdir()
    return path


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """Return a catalogue with one technique."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "x_storage_toys.py").write_text(TOYS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "x_storage_toys", raising=False)
    plugin = FoundPlugin("toys", "x-toys", "3.1", "x_storage_toys", None)
    return Catalogue([Holdings(plugin, {"techniques": {"toy.shift": "x_storage_toys:Shift"}})])


@pytest.fixture
def artifact(tmp_path: Path, catalogue: Catalogue) -> Personalization:
    """Return a fitted subject with tensors of several dtypes and layouts."""
    file = tmp_path / "toy.toml"
    file.write_text(RECIPE, encoding="utf-8")
    stacked = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    return Personalization(
        recipe=load_recipe(file, catalogue=catalogue),
        backbone=BackboneCard("mini", "ab" * 32, "sd", (64, 64), "epsilon", "/somewhere"),
        concepts=(Concept("dog", "<rex>", "dog"), Concept("hat", "<hat>", "red hat", "thing")),
        tensors={
            "toy.shift/<rex>/rows": stacked[0],
            "toy.shift/<hat>/rows": stacked[1],
            "toy.shift/mid.attn/half": torch.randn(3, 2).to(torch.bfloat16).t(),
            "toy.shift/mid.attn/scale": torch.tensor(1.5),
            "toy.shift/mid.attn/none": torch.zeros(0, 4),
        },
        features={"clip.image": torch.randn(1, 5)},
        seed=7,
        losses={"core.denoise": 0.125, "gone": float("nan")},
        subject="rex",
        versions={"pcs-core": "0.0.1"},
        extra={"note": "é", "n": [1, 2.5, None]},
    )
