"""The backbone of write-a-backbone.md fits, draws, and keeps the contract."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import fit, sample
from pcs_core.backbone import BackboneBase
from pcs_core.catalogue import catalogue
from pcs_core.data import Phase
from pcs_core.errors import CapabilityError
from pcs_testing import CHECKS, Case, make_recipe, make_subject

PAGE = Path(__file__).resolve().parents[2] / "docs" / "write-a-backbone.md"


@pytest.fixture(scope="module")
def page_backbone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackboneBase]:
    """The page's code, as a module."""
    home = tmp_path_factory.mktemp("own")
    (home / "pcs_own").mkdir()
    (home / "pcs_own" / "__init__.py").touch()
    page = PAGE.read_text("utf-8")
    for name in ("backbone", "plugin"):
        code = re.search(rf"```python\n(# pcs_own/{name}.py\n.*?)```", page, re.DOTALL)
        assert code is not None
        (home / "pcs_own" / f"{name}.py").write_text(code[1], "utf-8")
    sys.path.insert(0, str(home))
    try:
        from pcs_own.backbone import open_own  # type: ignore[import-not-found]
        from pcs_own.plugin import backbones  # type: ignore[import-not-found]

        assert backbones() == {"own": "pcs_own.backbone:open_own"}
        yield open_own()
    finally:
        sys.path.remove(str(home))
        for name in [n for n in sys.modules if n.startswith("pcs_own")]:
            del sys.modules[name]


def case(page_backbone: Any, id: str, **settings: Any) -> Case:
    class Own(Case):
        def open(self) -> Any:
            return page_backbone

    technique = catalogue().get("techniques", id)
    return Own(technique, {**technique.tiny, **settings})


PARTS = (
    "detaching_restores",
    "gradients_stay_inside",
    "base_is_reachable",
    "rows_are_apart",
    "state_is_saved",
    "subjects_train_as_if_alone",
)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("id", ["tokens.learnable", "weights.lora", "weights.kv"])
def test_techniques_that_know_no_backbone_run_on_it(page_backbone: Any, id: str, part: str) -> None:
    CHECKS[part](case(page_backbone, id))


def test_it_learns_and_draws(page_backbone: Any) -> None:
    make = catalogue().get
    uses = [make("techniques", id)() for id in ("tokens.learnable", "weights.lora")]
    recipe = make_recipe(uses, Phase("p", 60, lr={"*": 1e-2}))
    readings: list[float] = []
    (artifact,) = fit(
        recipe,
        make_subject(),
        page_backbone,
        watch=[lambda p: readings.append(p.losses["core.denoise"])],
    )
    assert sum(readings[-3:]) < sum(readings[:3])
    tuned = sample(artifact, page_backbone, "a photo of <fido>", steps=4, scale=1.0)
    plain = sample(None, page_backbone, "a photo of a dog", steps=4, scale=1.0)
    assert tuned.shape == plain.shape == (1, 3, 32, 32)
    assert not torch.equal(tuned, plain)


def test_what_it_has_not_is_refused_by_name(page_backbone: Any) -> None:
    with pytest.raises(CapabilityError, match="'own' has no control network"):
        page_backbone.control_network(3, 1.0)
    with pytest.raises(CapabilityError, match="knows no scheduler 'euler'"):
        page_backbone.sampler("euler", 3)
