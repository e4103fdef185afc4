"""A subject that asks to stop is trained no further; counted in rows and steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core.backbone import Backbone
from pcs_core.data import Phase, Recipe
from pcs_core.errors import InputError
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine import Progress, fit
from pcs_engine import checkpoints as checkpoints_module
from pcs_engine import progress as progress_module
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

ROWS: list[list[int]] = []


class Stopping(Technique):
    """Stops subjects after given steps of phase "p", and counts the rows of each step."""

    id = "test.stopping"

    after: dict[str, int]

    @hookimpl
    def regularize(self, step: Any) -> None:
        ROWS.append(step.batch.subject.tolist())
        for subject, steps in self.after.items():
            if step.phase == "p" and step.index + 1 == steps:
                step.stop(int(subject))


def two() -> list[Any]:
    return [make_subject(n, token=f"<{n}>", seed=i) for i, n in enumerate(("ann", "bob"))]


def recipe_of(after: dict[str, int], steps: int = 6, ema: float = 0.0) -> Recipe:
    phases = [
        Phase("p", steps, lr={"*": 1e-2}, weight_decay=0.1, ema=ema),
        Phase("q", 2, lr={"*": 1e-2}),
    ]
    return make_recipe([Probe(), Stopping(after=after)], *phases)


def test_a_stopped_subject_has_no_rows_and_does_not_move(backbone: Backbone) -> None:
    ROWS.clear()
    seen: list[Progress] = []
    artifacts = fit(recipe_of({"0": 2, "1": 4}), two(), backbone, watch=[seen.append])
    assert ROWS == [[0, 1]] * 2 + [[1]] * 2 + [[0, 1]] * 2
    assert artifacts[0].extra["stopped"] == [{"phase": "p", "steps": 2}]
    assert artifacts[1].extra["stopped"] == [{"phase": "p", "steps": 4}]
    assert [p.done for p in seen] == [6, 8]  # the phase counts as a whole
    for index, steps in enumerate((2, 4)):  # as a fit that had so few steps
        ROWS.clear()
        alone = fit(recipe_of({}, steps), two()[index], backbone)[0]
        for name, value in alone.tensors.items():
            assert torch.allclose(value, artifacts[index].tensors[name], atol=2e-4), name


def test_the_average_of_a_stopped_subject_rests_too(backbone: Backbone) -> None:
    artifacts = fit(recipe_of({"0": 2}, ema=0.9), two(), backbone)
    alone = fit(recipe_of({}, 2, ema=0.9), two()[0], backbone)[0]
    for name, value in alone.tensors.items():
        assert torch.allclose(value, artifacts[0].tensors[name], atol=2e-4), name


def test_nobody_stopped(backbone: Backbone) -> None:
    (artifact,) = fit(recipe_of({}), make_subject(), backbone)
    assert "stopped" not in artifact.extra


def test_a_single_subject_ends_the_phase(backbone: Backbone) -> None:
    ROWS.clear()
    (artifact,) = fit(recipe_of({"0": 3}), make_subject(), backbone)
    assert len(ROWS) == 3 + 2
    assert artifact.extra["stopped"] == [{"phase": "p", "steps": 3}]


@pytest.mark.parametrize("at", [1, 3, 5, 6])
def test_resume_is_exact(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "REPORT_EVERY", 1)

    def interrupt(progress: Progress) -> None:
        if progress.done >= at:
            raise KeyboardInterrupt

    recipe = recipe_of({"0": 2, "1": 5}, ema=0.9)
    whole = fit(recipe, two(), backbone)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, two(), backbone, work=tmp_path, watch=[interrupt])
    resumed = fit(recipe, two(), backbone, work=tmp_path, resume=True)
    for one, other in zip(whole, resumed, strict=True):
        assert one.extra == other.extra
        assert all(torch.equal(v, other.tensors[n]) for n, v in one.tensors.items())


def test_there_is_no_such_subject(backbone: Backbone) -> None:
    with pytest.raises(InputError, match=r"step\.stop\(2\): the subjects are 0 to 1"):
        fit(recipe_of({"2": 1}), two(), backbone)
