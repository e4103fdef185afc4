"""A fit that was interrupted goes on bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core.assembly import load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import Personalization, Phase, Recipe, Subject
from pcs_core.errors import ArtifactError, InputError
from pcs_engine import Progress, fit
from pcs_engine import checkpoints as checkpoints_module
from pcs_testing import make_subject


class Stop:
    """Raises KeyboardInterrupt at the first report after ``done`` steps."""

    def __init__(self, done: int) -> None:
        self.done = done

    def __call__(self, progress: Progress) -> None:
        if progress.done >= self.done:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)
    monkeypatch.setattr(sys.modules["pcs_engine.progress"], "REPORT_EVERY", 3)


def recipe_of(system: str, **settings: Any) -> Recipe:
    overrides = [f"{k}={v}" for k, v in settings.items()]
    return load_recipe(system, overrides=overrides)


def subjects(count: int) -> list[Subject]:
    return [make_subject(n, token=f"<{n}>", seed=i) for i, n in enumerate(["ann", "bob"][:count])]


PRIOR = {"regularizers.prior_preservation.count": 2, "regularizers.prior_preservation.steps": 2}
CASES: dict[str, tuple[Recipe, int, int]] = {
    "textual-inversion": (recipe_of("textual-inversion", **{"token.steps": 8}), 1, 3),
    "lora-dreambooth of two": (
        recipe_of("lora-dreambooth", **{"tune.steps": 8, "tune.clip": 0.1, "tune.warmup": 5}),
        2,
        6,
    ),
    "dreambooth": (recipe_of("dreambooth", **{"tune.steps": 8, **PRIOR}), 1, 3),
    "dreambooth, in the second subject": (
        recipe_of("dreambooth", **{"tune.steps": 5, **PRIOR}),
        2,
        8,
    ),
    "anti-dreambooth, in the attack on a copy": (
        recipe_of(
            "anti-dreambooth",
            **{"surrogate.steps": 2, "attack.steps": 5, "adapt.steps": 2, "fit.cycles": 2, **PRIOR},
        ),
        1,
        14,
    ),
}


def same(one: list[Personalization], other: list[Personalization]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.subject == b.subject
        assert a.losses == b.losses
        assert list(a.tensors) == list(b.tensors)
        for name, tensor in a.tensors.items():
            assert torch.equal(tensor, b.tensors[name]), name


@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_uninterrupted(backbone: Backbone, tmp_path: Path, case: str) -> None:
    recipe, count, stop = CASES[case]
    whole = fit(recipe, subjects(count), backbone, seed=2)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, subjects(count), backbone, seed=2, work=tmp_path, watch=[Stop(stop)])
    seen: list[Progress] = []
    resumed = fit(
        recipe, subjects(count), backbone, seed=2, work=tmp_path, resume=True, watch=[seen.append]
    )
    same(whole, resumed)
    assert seen[0].done > stop - 3  # it went on, it did not begin again
    assert seen[-1].done == seen[-1].total


def test_phases_and_cycles_are_found_again(backbone: Backbone, tmp_path: Path) -> None:
    base = recipe_of("custom-diffusion", **{"data.augment.variants": 1, **PRIOR})
    phases = (
        Phase("token", 4, train=("tokens.learnable/*",), lr={"*": 1e-2}),
        Phase("kv", 4, train=("weights.kv/*",), lr={"*": 1e-2}, accumulate=2),
    )
    recipe = replace(base, phases=phases, cycles=2)
    whole = fit(recipe, subjects(2), backbone)
    for stop in (3, 7, 11):
        work = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, subjects(2), backbone, work=work, watch=[Stop(stop)])
        same(whole, fit(recipe, subjects(2), backbone, work=work, resume=True))


def test_a_finished_fit_resumes_to_the_same_end(backbone: Backbone, tmp_path: Path) -> None:
    recipe = CASES["textual-inversion"][0]
    whole = fit(recipe, subjects(1), backbone, work=tmp_path)
    seen: list[Progress] = []
    same(whole, fit(recipe, subjects(1), backbone, work=tmp_path, resume=True, watch=[seen.append]))
    assert not seen


def test_without_resume_it_begins_anew(backbone: Backbone, tmp_path: Path) -> None:
    recipe = CASES["textual-inversion"][0]
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, subjects(1), backbone, work=tmp_path, watch=[Stop(6)])
    seen: list[Progress] = []
    again = fit(recipe, subjects(1), backbone, work=tmp_path, watch=[seen.append])
    assert [p.done for p in seen] == [3, 6, 8]
    same(fit(recipe, subjects(1), backbone), again)


@pytest.mark.parametrize("what", ["recipe", "seed"])
def test_the_fit_of_another_recipe_or_seed_is_refused(
    backbone: Backbone, tmp_path: Path, what: str
) -> None:
    recipe = CASES["textual-inversion"][0]
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, subjects(1), backbone, work=tmp_path, watch=[Stop(3)])
    other = recipe_of("textual-inversion", **{"token.steps": 9}) if what == "recipe" else recipe
    with pytest.raises(InputError, match=f"another {what}"):
        fit(other, subjects(1), backbone, seed=int(what == "seed"), work=tmp_path, resume=True)


def test_a_damaged_checkpoint_is_named(backbone: Backbone, tmp_path: Path) -> None:
    recipe = CASES["textual-inversion"][0]
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, subjects(1), backbone, work=tmp_path, watch=[Stop(3)])
    (file,) = (p for p in tmp_path.iterdir() if p.name.startswith("fit-"))
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match="fit-ann"):
        fit(recipe, subjects(1), backbone, work=tmp_path, resume=True)
