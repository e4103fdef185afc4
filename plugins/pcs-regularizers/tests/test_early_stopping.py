"""DVAR: a fit stops where the variance of recent losses on a frozen batch is a small share of that of all."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.utils import save_image

from pcs_cli.main import main
from pcs_core import fit, load_recipe
from pcs_core.backbone import Backbone
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_regularizers.early_stopping import LATENTS, LEVELS, EarlyStopping, Losses
from pcs_testing import make_picture, make_recipe, make_subject
from pcs_testing.fixtures import extracted

SEEN: list[float] = []


class Twice(Technique):
    """Evaluates the frozen batch twice in each step, between two draws of torch's own generator."""

    id = "test.twice"

    @hookimpl
    def regularize(self, run: object, step: object) -> None:
        torch.manual_seed(step.index)  # type: ignore[attr-defined]
        judge = EarlyStopping(rows=2)
        pair = [float(judge.loss(run, step, 0)) for _ in range(2)]  # type: ignore[arg-type]
        assert pair[0] == pair[1]
        SEEN.append(pair[0])


@pytest.mark.parametrize("window", [3, 8])
def test_it_fires_where_the_released_rule_does(window: int) -> None:
    """A loss that falls, then stays: `early_stopping.py` takes numpy's variances of the window and of all."""
    losses = [math.exp(-i / 5) + 0.01 * math.sin(i) for i in range(60)]
    kept = Losses(2, window)
    for i, loss in enumerate(losses):
        ratio = kept.ratio(1, torch.tensor(loss))
        if i + 1 < window:
            assert ratio is None
            continue
        expected = np.var(losses[max(0, i + 1 - window) : i + 1]) / np.var(losses[: i + 1])
        assert ratio == pytest.approx(expected, rel=1e-5)
    assert float(kept.count[0]) == 0  # of another subject nothing was seen


def test_losses_that_never_vary_stop_at_once() -> None:
    kept = Losses(1, 2)
    assert kept.ratio(0, torch.tensor(1.0)) is None
    assert kept.ratio(0, torch.tensor(1.0)) == 0.0


def test_the_frozen_levels_are_of_the_whole_range_and_all_differ(backbone: Backbone) -> None:
    technique = EarlyStopping(rows=64, alpha=0.0)
    _, features, _ = extracted(make_recipe([technique]), [make_subject()], backbone)
    levels = features.tensors[LEVELS][0]
    assert len(set(levels.tolist())) == 64
    assert 0.0 < float(levels.min()) < 0.1
    assert 0.9 < float(levels.max()) < 1.0
    assert float(levels.mean()) == pytest.approx(0.5, abs=0.1)


def test_only_references_are_frozen_at_the_start_and_each_in_its_turn() -> None:
    pictures = {name: torch.full((3, 2, 2), i / 8) for i, name in enumerate("abcdef")}
    roles = {"a": "clean", "b": "subject", "c": "prior", "d": "subject", "e": "view", "f": ""}
    examples = [SimpleNamespace(image=pictures[n], role=role) for n, role in roles.items()]
    run: Any = SimpleNamespace(
        features=SimpleNamespace(examples=examples),
        encode=lambda images: images,
        subject_rng=lambda subject, purpose: random.Random(0),
    )
    technique = EarlyStopping(rows=3)
    for moment in ("border", "start", "zenith"):
        features = technique.extract(run=run, subject=make_subject(), moment=moment)
        assert (features is None) == (moment != "start")
        if features is not None:
            shown = [float(latents[0, 0, 0]) for latents in features.tensors[LATENTS]]
            assert shown == [1 / 8, 3 / 8, 1 / 8]


def test_the_frozen_batch_is_the_same_in_every_step(backbone: Backbone) -> None:
    """With a word that does not move the loss stays, bit for bit; with one that does it changes."""
    for rate, values in ((1e-30, 1), (1e-2, 4)):
        SEEN.clear()
        settings = ["token.steps=4", f"token.lr={rate}", "token.weight_decay=0.0"]
        few = "regularizers.early_stopping.{}"
        recipe = load_recipe(
            "dvar", overrides=[*settings, few.format("alpha=0.0"), few.format("rows=2")]
        )
        uses = (*recipe.uses, replace(recipe.uses[-1], name=Twice.id, technique=Twice()))
        fit(replace(recipe, uses=uses), make_subject(), backbone)
        assert len(set(SEEN)) == values


def test_a_fit_of_the_command_stops_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "rex"
    folder.mkdir()
    for i in range(2):
        save_image(make_picture(i), folder / f"{i}.png")
    few = "regularizers.early_stopping.{}"
    settings = ("token.steps=30", few.format("window=4"), few.format("alpha=0.3"))
    chosen = [word for setting in settings for word in ("--set", setting)]
    where = [
        "--noun",
        "dog",
        "--token",
        "<rex>",
        "--backbone",
        "tiny",
        "--out",
        str(tmp_path / "out"),
        "--no-preview",
    ]
    assert main(["fit", "dvar", str(folder), *where, *chosen]) == 0
    assert "stops after" in capsys.readouterr().err
    (manifest,) = (tmp_path / "out").rglob("manifest.json")
    (stop,) = json.loads(manifest.read_text())["extra"]["stopped"]
    assert stop["phase"] == "token"
    assert 4 <= stop["steps"] < 30
