"""What the pages promise a newcomer: a recipe is copied, two uses are changed, and it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pcs_cli.main import main
from pcs_core import load, load_recipe
from pcs_core.catalogue import Catalogue, catalogue
from pcs_folders.pictures import write_png
from pcs_testing import brief_settings, pixels

RECIPE = """
[recipe]
id = "walk"
scope = ["object"]
framework = "TTF"

[[use]]
technique = "walk.nothing"
"""
TECHNIQUE = '''
"""Nothing at all."""

from pcs_core import Technique


class Nothing(Technique):
    """Do nothing."""

    id = "walk.nothing"
'''
PLUGIN = """
from pcs_core import catalogue_hookimpl


@catalogue_hookimpl
def techniques():
    return "x_walk"


@catalogue_hookimpl
def recipes():
    return ["x_walk"]
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my-dog"
    folder.mkdir()
    rng = torch.Generator().manual_seed(0)
    for index in range(2):
        write_png(torch.rand(3, 40, 40, generator=rng), folder / f"{index}.png")
    return folder


@pytest.fixture
def pcs(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert code == 0, err
        return out

    return run


def test_a_copied_recipe_with_two_other_uses_runs(
    tmp_path: Path, photos: Path, pcs: Callable[..., str]
) -> None:
    mine = tmp_path / "my-method.toml"
    text = catalogue().recipe_file("lora-dreambooth").read_text("utf-8")
    text = text.partition("[backbone.")[0].partition("[check")[0]
    for old, new in (
        ('id = "lora-dreambooth"', 'id = "my-method"'),
        ('technique = "tokens.rare"\nidentifier = "sks"', 'technique = "tokens.learnable"'),
        ('technique = "weights.lora"\nrank = 4\n', 'technique = "weights.svd"\n'),
        ('train = ["weights.lora/*"]', 'train = ["tokens.learnable/*", "weights.svd/*"]'),
    ):
        assert old in text
        text = text.replace(old, new)
    mine.write_text("".join(line for line in text.splitlines(True) if "sites" not in line))

    assert "weights.svd" in pcs("explain", mine)
    few = [word for c in brief_settings(load_recipe(str(mine))) for word in ("--set", c)]
    fitted, drawn, plain = (tmp_path / name for name in ("fitted", "drawn", "plain"))
    words = ("--noun", "dog", "--token", "<dog>", "--no-preview", "--device", "cpu")
    pcs("fit", mine, photos, "--backbone", "tiny", *words, *few, "--out", fitted)
    artifact = load(fitted)
    assert [use.technique.id for use in artifact.recipe.uses] == ["tokens.learnable", "weights.svd"]
    assert {name.split("/")[0] for name in artifact.tensors} == {"tokens.learnable", "weights.svd"}

    options = ("--seed", 0, "--steps", 2, "-n", 1, "--device", "cpu")
    pcs("sample", fitted, "a photo of <dog> on the beach", *options, "--out", drawn)
    pcs("sample", "--base", "tiny", "a photo of dog on the beach", *options, "--out", plain)
    pictures = [pixels(folder / "000.png") for folder in (drawn, plain)]
    assert pictures[0] != pictures[1]
    assert json.loads((drawn / "sample.json").read_text())["backbone"]["id"] == "tiny"


def test_a_further_recipe_and_technique_are_found_by_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is written for them: no table, no entry, no list."""
    package = tmp_path / "x_walk"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(PLUGIN, "utf-8")
    info = tmp_path / "x_walk-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: x-walk\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[pcs.plugins]\nwalk = x_walk.plugin\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = Catalogue.load("x-walk")
    assert (before.ids("techniques"), list(before.recipe_files())) == ([], [])

    (package / "nothing.py").write_text(TECHNIQUE, "utf-8")
    (package / "walk.toml").write_text(RECIPE, "utf-8")
    after = Catalogue.load("x-walk")
    assert (after.ids("techniques"), list(after.recipe_files())) == (["walk.nothing"], ["walk"])
    assert [use.technique.id for use in load_recipe("walk", catalogue=after).uses] == [
        "walk.nothing"
    ]
