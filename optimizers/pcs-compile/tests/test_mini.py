"""The embedded backbone with its real weights draws the same pictures compiled."""

from __future__ import annotations

import pytest

from pcs_core import fit, load_recipe, open_backbone, open_engine


@pytest.mark.slow
def test_mini(subject, trajectory, apart) -> None:
    pytest.importorskip("pcs_mini")
    mini = open_backbone("mini")
    settings = ["tune.steps=2", "tune.lr=1e-2"]
    recipe = load_recipe("lora-dreambooth", backbone="mini", overrides=settings)
    artifacts = [fit(recipe, subject(s), mini, seed=s)[0] for s in (1, 2)]
    engine = open_engine(mini, "compile", backend="aot_eager")
    drawn = [trajectory(artifacts[0], engine)]
    compiled = engine.engine["compiled"]
    drawn.append(trajectory(artifacts[1], engine))
    assert engine.engine["compiled"] == compiled > 0
    for artifact, actual in zip(artifacts, drawn, strict=True):
        assert apart(actual, trajectory(artifact, mini)) <= 1e-5
    assert apart(*drawn) > 1e-3
