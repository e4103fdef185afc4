"""The block edit of write-a-technique.md keeps the contract, trains and draws."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_cli.main import main
from pcs_core import fit, open_backbone, sample, write_png
from pcs_core.catalogue import catalogue
from pcs_core.data import Phase
from pcs_core.errors import CapabilityError
from pcs_testing import CHECKS, Case, make_picture, make_recipe, make_subject

ON, SAID = ["--backbone", "tiny"], ["--noun", "dog", "--token", "<one>"]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "write-a-technique.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page's technique, installed beside what the page installs."""
    home = tmp_path_factory.mktemp("block")
    page = PAGE.read_text("utf-8")
    (home / "pcs_scale").mkdir()
    (home / "pcs_scale" / "__init__.py").touch()
    for name in ("gated_block", "plugin"):
        code = re.search(rf"```python\n(# pcs_scale/{name}.py\n.*?)```", page, re.DOTALL)
        assert code is not None
        (home / "pcs_scale" / f"{name}.py").write_text(code[1], "utf-8")
    info = home / "pcs_scale-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pcs-scale\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[pcs.plugins]\nscale = pcs_scale.plugin\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        catalogue.cache_clear()
        yield catalogue().get("techniques", "scale.gated_block")
    catalogue.cache_clear()
    for name in [n for n in sys.modules if n.split(".")[0] == "pcs_scale"]:
        del sys.modules[name]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_it_keeps_the_contract(check: Any, written: Any) -> None:
    check(Case(written))


@pytest.mark.parametrize("family", ["tiny", "tiny-sdxl", "tiny-video"])
def test_it_trains_two_subjects_and_draws(written: Any, family: str) -> None:
    backbone = open_backbone(family)
    recipe = make_recipe({"block": written()}, Phase("all", steps=2, lr={"*": 0.05}))
    before = sample(None, backbone, "a <fido>", steps=2, seed=3)
    one, two = fit(recipe, [make_subject("one"), make_subject("two")], backbone)
    gates = [n for n in one.tensors if n.endswith("/gate")]
    assert gates
    assert all("after_cross" in n for n in gates)
    assert all(float(p.tensors[n].abs()) > 0 for p in (one, two) for n in gates)
    assert not torch.equal(sample(one, backbone, "a <fido>", steps=2, seed=3), before)
    assert torch.equal(sample(None, backbone, "a <fido>", steps=2, seed=3), before)


def test_a_network_without_the_place_refuses_it_by_name(written: Any) -> None:
    backbone = open_backbone("tiny-sd3")
    recipe = make_recipe({"block": written(sites="after_self")})
    with pytest.raises(CapabilityError, match=r"after_self|cross"):
        fit(recipe, make_subject("one"), backbone)


RECIPE = """
[recipe]
id = "block-of-the-page"
backbones = ["sd"]
[[use]]
technique = "tokens.learnable"
[[use]]
technique = "scale.gated_block"
[[phase]]
name = "all"
steps = 2
lr = 0.05
[sample]
steps = 2
"""


@pytest.mark.slow
def test_it_draws_the_same_from_onnx(written: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    recipe, out = tmp_path / "block.toml", tmp_path / "onnx"
    recipe.write_text(RECIPE, "utf-8")
    (tmp_path / "one").mkdir()
    write_png(make_picture(0, (64, 64)), tmp_path / "one" / "0.png")
    fitted = str(tmp_path / "fitted")
    assert main(["fit", str(recipe), str(tmp_path / "one"), *ON, "--out", fitted, *SAID]) == 0
    assert main(["export", fitted, "--to", "onnx", *ON, "--out", str(out)]) == 0
    drawn = []
    for name, engine in (("eager", []), ("graph", ["--engine", "onnx", "--deployment", str(out)])):
        folder = tmp_path / name
        arguments = ["sample", fitted, "a photo of <one>", "--seed", "1", "--out", str(folder)]
        assert main([*arguments, *(engine or ON)]) == 0
        drawn.append(np.asarray(Image.open(folder / "000.png")).astype(int))
    assert abs(drawn[0] - drawn[1]).max() <= 1
