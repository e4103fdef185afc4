"""Recipe order is call order, wrappers outermost first; runs do not leak into each other."""

from __future__ import annotations

from typing import Any

import pluggy
import pytest
import torch

from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Fusion, Loss, Phase, Prediction, Recipe
from pcs_core.errors import ConflictError
from pcs_core.hookspecs import RUN_HOOKS, RunSpecs, hookimpl
from pcs_core.technique import Technique
from pcs_engine import SampleProgress, fit, open_backbone, sample
from pcs_engine.run import EngineRun
from pcs_testing import Snapshot, make_recipe, make_subject
from pcs_testing.probe import Probe

LOG: list[str] = []


class Plain(Technique):
    id = "test.plain"
    label: str = ""

    @hookimpl
    def extract(self) -> None:
        LOG.append(f"extract {self.label}")

    @hookimpl
    def fuse(self) -> Fusion:
        LOG.append(f"fuse {self.label}")
        return Fusion()

    @hookimpl
    def regularize(self, step: Any) -> Loss:
        LOG.append(f"regularize {self.label}")
        return Loss(self.label, step.error.mean(dim=(1, 2, 3)))


class Around(Technique):
    id = "test.around"
    label: str = ""

    @hookimpl(wrapper=True)
    def regularize(self) -> Any:
        LOG.append(f"into {self.label}")
        result = yield
        LOG.append(f"out of {self.label}")
        return result

    @hookimpl(wrapper=True)
    def sample(self) -> Any:
        LOG.append(f"into {self.label}")
        result = yield
        LOG.append(f"out of {self.label}")
        return result


@pytest.fixture(autouse=True)
def _clean() -> None:
    LOG.clear()


def recipe(steps: int = 1) -> Recipe:
    uses = {
        "w1": Around(label="w1"),
        "a": Plain(label="a"),
        "probe": Probe(),
        "w2": Around(label="w2"),
        "b": Plain(label="b"),
    }
    return make_recipe(uses, Phase("p", steps, lr={"*": 1e-2}))


def test_there_are_five_hooks() -> None:
    assert set(RUN_HOOKS) == {"mask", "extract", "fuse", "regularize", "sample"}
    assert {n for n in vars(RunSpecs) if not n.startswith("_")} == set(RUN_HOOKS)


def test_recipe_order_is_call_order(backbone: Backbone) -> None:
    (artifact,) = fit(recipe(), make_subject(), backbone)
    assert [
        *("extract a", "extract b", "fuse a", "fuse b"),
        *("into w1", "into w2", "regularize a", "regularize b", "out of w2", "out of w1"),
    ] == LOG
    assert list(artifact.losses) == ["a", "b", "core.denoise"]
    LOG.clear()
    sample(artifact, backbone, "a <fido>", steps=1)
    assert LOG == ["fuse a", "fuse b", "into w1", "into w2", "out of w2", "out of w1"]


def test_a_wrapper_may_change_the_prediction(backbone: Backbone) -> None:
    class Flip(Technique):
        id = "test.flip"

        @hookimpl(wrapper=True)
        def sample(self, step: Any) -> Any:
            prediction = yield
            return Prediction(-prediction.x0)

    (artifact,) = fit(make_recipe([Flip()]), make_subject(), backbone)
    plain = sample(None, backbone, "a dog", steps=2, scale=2.0, scheduler="ddim")
    flipped = sample(artifact, backbone, "a <fido>", steps=2, scale=2.0)
    assert (plain - flipped).abs().max() > 1e-2


def test_a_wrapper_may_change_the_latents(backbone: Backbone) -> None:
    """Setting them to what they are is no change, for every kind of latents."""

    class Same(Technique):
        id = "test.same"

        @hookimpl(wrapper=True)
        def sample(self, step: Any) -> Any:
            step.latents = step.latents.clone()
            return (yield)

    (artifact,) = fit(make_recipe([Same()]), make_subject(), backbone)
    for scheduler in ("ddim", "euler", "dpm++"):
        options: dict[str, Any] = {"steps": 4, "scale": 2.0, "scheduler": scheduler}
        ours = sample(artifact, backbone, "a <fido>", **options)
        plain = sample(None, backbone, "a <fido>", **options)
        assert (ours - plain).abs().max() < 1e-5


def test_losses_are_reweighed_by_a_wrapper(backbone: Backbone) -> None:
    class Nothing(Technique):
        id = "test.nothing"

        @hookimpl(wrapper=True)
        def regularize(self) -> Any:
            losses = yield
            return [Loss(loss.name, loss.value, 0.0, loss.rows) for loss in losses]

    uses = {"test.nothing": Nothing(), "probe": Probe()}
    (artifact,) = fit(make_recipe(uses, Phase("p", 2, lr={"*": 0.1})), make_subject(), backbone)
    assert all(t.abs().max() == 0 for t in artifact.tensors.values())


def test_a_misspelt_argument_is_refused_before_the_run(backbone: Backbone) -> None:
    class Wrong(Technique):
        id = "test.wrong"

        @hookimpl
        def fuse(self, rum: Any) -> None: ...

    with pytest.raises(pluggy.PluginValidationError, match="rum"):
        EngineRun(make_recipe([Wrong()]), backbone)


def test_a_conflict_names_the_uses_not_the_techniques(backbone: Backbone) -> None:
    uses = {"left": Plain(label="x"), "right": Plain(label="x"), "probe": Probe()}
    before = Snapshot(backbone)
    with pytest.raises(ConflictError, match=r"'left'.*'right'"):
        fit(make_recipe(uses, Phase("p", 1)), make_subject(), backbone)
    before.assert_unchanged()


PROMPT = "a photo of <fido>"
OPTIONS: dict[str, Any] = {"steps": 3, "scale": 2.0, "scheduler": "dpm++"}
SYSTEMS: dict[str, dict[str, Any]] = {
    "weights.lora": {"rank": 2},
    "weights.full": {"pattern": "mid_block*"},
    "weights.peft": {"kind": "lora", "sites": "*.to_v"},
    "tokens.learnable": {},
}


class Interleaved:
    """Draws another picture in the middle of a run, on the same network or on another."""

    def __init__(self, artifact: Any, backbone: Any) -> None:
        self.artifact, self.backbone = artifact, backbone
        self.pictures: list[torch.Tensor] = []

    def __call__(self, progress: SampleProgress) -> None:
        if not self.pictures:
            self.pictures.append(sample(self.artifact, self.backbone, PROMPT, seed=9, **OPTIONS))


@pytest.mark.parametrize("id", SYSTEMS)
def test_interleaved_runs_draw_what_they_draw_alone(backbone: Backbone, id: str) -> None:
    technique = catalogue().get("techniques", id).from_settings(SYSTEMS[id])
    phase = Phase("p", 3, lr={"*": 3e-2})
    (artifact,) = fit(make_recipe([technique], phase), make_subject(), backbone)
    (other,) = fit(make_recipe([technique, Probe()], phase), make_subject(seed=4), backbone)
    alone = sample(artifact, backbone, PROMPT, seed=1, **OPTIONS)
    second = sample(other, backbone, PROMPT, seed=9, **OPTIONS)
    base = sample(None, backbone, PROMPT, seed=9, **OPTIONS)
    before = Snapshot(backbone)
    for network in (backbone, open_backbone("tiny")):
        for inner, expected in ((other, second), (None, base)):
            watcher = Interleaved(inner, network)
            outer = sample(artifact, backbone, PROMPT, seed=1, watch=[watcher], **OPTIONS)
            assert torch.equal(outer, alone)
            assert torch.equal(watcher.pictures[0], expected)
    before.assert_unchanged()


@pytest.mark.parametrize("id", SYSTEMS)
def test_a_picture_drawn_during_a_fit_changes_neither(backbone: Backbone, id: str) -> None:
    technique = catalogue().get("techniques", id).from_settings(SYSTEMS[id])
    recipe = make_recipe([technique], Phase("p", 12, lr={"*": 1e-2}))
    (alone,) = fit(recipe, make_subject(), backbone)
    base = sample(None, backbone, PROMPT, **OPTIONS)
    pictures: list[torch.Tensor] = []

    def preview(_: Any) -> None:
        pictures.append(sample(None, backbone, PROMPT, **OPTIONS))

    (watched,) = fit(recipe, make_subject(), backbone, watch=[preview])
    assert all(torch.equal(t, watched.tensors[n]) for n, t in alone.tensors.items())
    assert len(pictures) == 2
    assert all(torch.equal(p, base) for p in pictures)
