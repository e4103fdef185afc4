"""Between two phases, a technique that asks for it says anew what is worth knowing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core.backbone import Backbone
from pcs_core.data import Example, Features, Phase, Recipe
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine import Progress, fit
from pcs_engine import checkpoints as checkpoints_module
from pcs_engine import progress as progress_module
from pcs_testing import make_picture, make_recipe, make_subject
from pcs_testing.probe import Probe

CAPTIONS: list[tuple[str, ...]] = []
MOMENTS: list[tuple[str, str]] = []


class Renaming(Technique):
    """Says other captions, another feature and another example from phase "b" on; is silent before "c"."""

    id = "test.renaming"
    extract_moments = ("start", "phase")

    @hookimpl
    def extract(self, run: Any, subject: Any, moment: str) -> Features | None:
        MOMENTS.append((moment, run.phase))
        if moment == "start":
            return Features(captions=("{token} at first",), tensors={"mine": torch.zeros(1)})
        if run.phase != "b":
            return None
        more = Example(make_picture(7), captions=("one more",), role="more")
        return Features(
            captions=("{token} later",), tensors={"mine": torch.ones(1)}, examples=(more,)
        )


class Reading(Technique):
    """Notes the captions of each step."""

    id = "test.reading"

    @hookimpl
    def extract(self, moment: str) -> None:
        MOMENTS.append((moment, "reading"))

    @hookimpl
    def regularize(self, run: Any, step: Any) -> None:
        CAPTIONS.append((*step.batch.captions, str(float(run.features.tensors["mine"][0, 0]))))


def recipe_of() -> Recipe:
    lr = {"*": 1e-2}
    phases = (Phase("a", 2, lr=lr), Phase("b", 2, lr=lr), Phase("c", 2, lr=lr))
    return make_recipe([Renaming(), Reading(), Probe()], *phases)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CAPTIONS.clear()
    MOMENTS.clear()


def test_captions_features_and_examples_change_at_the_border(backbone: Backbone) -> None:
    fit(recipe_of(), make_subject(), backbone)
    first, later = ("<fido> at first", "0.0"), ("<fido> later", "1.0")
    assert [first] * 2 + [later] * 4 == CAPTIONS
    assert MOMENTS == [
        ("start", ""),
        ("start", "reading"),
        ("phase", "b"),
        ("phase", "c"),
        ("finish", "reading"),
    ]


def test_only_what_is_new_is_encoded(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    moments = backbone.moments

    def counted(images: torch.Tensor) -> Any:
        encoded.append(len(images))
        return moments(images)

    monkeypatch.setattr(backbone, "moments", counted)
    fit(recipe_of(), make_subject(images=2), backbone)
    assert encoded == [2, 1]


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_resume_across_borders_is_exact(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "REPORT_EVERY", 1)

    def interrupt(progress: Progress) -> None:
        if progress.done >= at:
            raise KeyboardInterrupt

    whole = fit(recipe_of(), make_subject(), backbone)[0]
    with pytest.raises(KeyboardInterrupt):
        fit(recipe_of(), make_subject(), backbone, work=tmp_path, watch=[interrupt])
    resumed = fit(recipe_of(), make_subject(), backbone, work=tmp_path, resume=True)[0]
    assert all(torch.equal(v, resumed.tensors[n]) for n, v in whole.tensors.items())
