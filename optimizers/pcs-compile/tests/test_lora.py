"""LoRAs of any rank share what was compiled, and draw what the network itself draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pcs_cli.main import main
from pcs_core import fit, load_recipe, open_engine, sample, save
from pcs_core.backbone import Backbone
from pcs_core.data import Personalization, Recipe
from pcs_core.errors import CapabilityError, InputError, UnknownNameError

PROMPT = "a photo of <one> on the beach"
TOLERANCE = 1e-5


def recipe(rank: int, alpha: float, *settings: str) -> Recipe:
    words = [f"weights.lora.rank={rank}", f"weights.lora.alpha={alpha}", *settings]
    words += ["tune.steps=1", "tune.lr=1e-2", "sample.steps=2"]
    return load_recipe("lora-dreambooth", backbone="tiny", overrides=words)


@pytest.fixture(scope="module")
def artifacts(backbone: Backbone, subject) -> list[Personalization]:
    """Three subjects, of three ranks and scales."""
    plans = ((1, 4, 4.0), (2, 2, 8.0), (3, 6, 3.0))
    return [fit(recipe(r, a), subject(s), backbone, seed=s)[0] for s, r, a in plans]


@pytest.fixture(scope="module")
def engine(backbone: Backbone) -> Backbone:
    return open_engine(backbone, "compile", backend="aot_eager", rank=6)


@pytest.mark.rotated
def test_other_subjects_ranks_and_texts_compile_nothing(
    artifacts: list[Personalization], backbone: Backbone, engine, trajectory, apart
) -> None:
    drawn = [trajectory(artifacts[0], engine)]
    compiled = engine.engine["compiled"]
    assert 0 < compiled <= 4  # once per shape of a block, not once per block
    drawn += [trajectory(artifact, engine) for artifact in artifacts[1:]]
    trajectory(artifacts[0], engine, "a drawing of <one> in the snow", negative="green", seed=9)
    assert engine.engine["compiled"] == compiled
    for artifact, actual in zip(artifacts, drawn, strict=True):
        assert apart(actual, trajectory(artifact, backbone)) <= TOLERANCE
    for other in drawn[1:]:  # alive: another LoRA draws another picture
        assert apart(drawn[0], other) > 100 * TOLERANCE
    untuned = trajectory(None, engine, "a photo of dog")
    assert apart(untuned, trajectory(None, backbone, "a photo of dog")) <= TOLERANCE


@pytest.mark.rotated
def test_a_longer_text_draws_as_on_the_network(
    artifacts: list[Personalization], backbone: Backbone, engine, trajectory, apart
) -> None:
    """A text of two windows is another shape: compiled once more, and right."""
    prompt = f"{'very big ' * 10} photo of <one> on the beach"
    actual = trajectory(artifacts[0], engine, prompt)
    assert apart(actual, trajectory(artifacts[0], backbone, prompt)) <= TOLERANCE
    assert apart(actual, trajectory(artifacts[0], backbone, PROMPT)) > 100 * TOLERANCE


def test_the_artifact_and_the_network_stay_as_they_were(
    artifacts: list[Personalization], backbone: Backbone, engine
) -> None:
    shapes = {name: value.shape for name, value in artifacts[0].tensors.items()}
    before = sample(artifacts[0], backbone, PROMPT, steps=1, count=2)
    sample(artifacts[0], engine, PROMPT, steps=1, count=2)
    assert {name: value.shape for name, value in artifacts[0].tensors.items()} == shapes
    after = sample(artifacts[0], backbone, PROMPT, steps=1, count=2)
    assert (after == before).all()
    for module in backbone.parts["denoiser"].modules():
        assert "forward" not in vars(module)
        assert module._compiled_call_impl is None


def test_a_larger_rank_is_refused(backbone: Backbone, engine, subject) -> None:
    (large,) = fit(recipe(8, 8.0), subject(1), backbone)
    with pytest.raises(CapabilityError, match=r"'weights\.lora' has rank 8, more than the 6"):
        sample(large, engine, PROMPT, steps=1)
    sample(None, backbone, "a dog", steps=1)  # nothing is left attached


def test_the_command_needs_no_deployment(artifacts: list[Personalization], tmp_path: Path) -> None:
    save(artifacts[0], tmp_path / "artifact")
    out = tmp_path / "drawn"
    words = ["sample", str(tmp_path / "artifact"), PROMPT, "-n", "1", "--steps", "1"]
    words += ["--engine", "compile", "--option", "backend=eager", "--device", "cpu"]
    assert main([*words, "--out", str(out)]) == 0
    facts = json.loads((out / "sample.json").read_text("utf-8"))
    assert facts["engine"]["name"] == "compile"
    assert facts["engine"]["compiled"] > 0
    assert (out / "000.png").is_file()


def test_words_that_do_not_go_together(
    backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnknownNameError, match="no engine 'compil', did you mean 'compile'"):
        open_engine(backbone, "compil")
    with pytest.raises(InputError, match="no such backend, did you mean 'inductor'"):
        open_engine(backbone, "compile", backend="inductr")
    with pytest.raises(UnknownNameError, match="has no 'BasicTransformer'"):
        open_engine(backbone, "compile", regions="BasicTransformer")
    with pytest.raises(CapabilityError, match="CUDA graphs need a CUDA device"):
        open_engine(backbone, "compile", graphs=True)
    with pytest.raises(InputError, match="rank=-1"):
        open_engine(backbone, "compile", rank=-1)
    with pytest.raises(InputError, match="name it with `engine`"):
        sample(None, backbone, "a dog", options={"rank": 4})
    words = ["sample", "--base", "tiny", "a dog", "--out", str(tmp_path / "out")]
    assert main([*words, "--engine", "compile", "--option", "rnk=4"]) == 2
    assert "compile has no setting 'rnk', did you mean 'rank'" in capsys.readouterr().err
    assert main([*words, "--option", "rank=4"]) == 2
    assert "name its engine with --engine" in capsys.readouterr().err
