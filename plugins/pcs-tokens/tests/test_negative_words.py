"""DreamArtist: both prompts' words learn from the guided prediction, and drawings read the negative ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.io import read_image
from torchvision.utils import save_image

from pcs_cli.main import main
from pcs_core import fit, load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import Concept
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine.run import EngineRun
from pcs_testing import make_picture, make_subject

SEEN: list[tuple[float, float]] = []
TEMPLATE = "tokens.learnable.templates=['a photo of a {token}']"


class Formula(Technique):
    """Keeps the loss beside that of the published formula, from two evaluations of its own."""

    id = "test.formula"

    @hookimpl(wrapper=True)
    def regularize(self, run: object, step: object) -> object:
        answers = yield
        terms = [t for a in answers for t in (a if isinstance(a, list | tuple) else [a]) if t]
        loss = next(t for t in terms if t.name == "negative.guided")
        with torch.no_grad():
            texts = ("a photo of a <fido>", "a photo of a <negative>")
            conds = [step.encode(t) for t in texts]  # type: ignore[attr-defined]
            plus, minus = (
                step.evaluate(step.noisy, step.level, cond).output  # type: ignore[attr-defined]
                for cond in conds
            )
            error = (minus + 5.0 * (plus - minus) - step.noise).square().mean()  # type: ignore[attr-defined]
        SEEN.append((float(loss.value.detach().mean()), float(error)))
        return answers


def test_the_loss_is_that_of_the_guided_prediction(backbone: Backbone) -> None:
    SEEN.clear()
    recipe = load_recipe("dreamartist", overrides=["words.steps=2", TEMPLATE])
    uses = (*recipe.uses, replace(recipe.uses[-1], name=Formula.id, technique=Formula()))
    subject = make_subject()
    assert subject.concept.token == "<fido>"
    fit(replace(recipe, uses=uses), subject, backbone)
    assert len(SEEN) == 2
    for loss, expected in SEEN:
        assert loss == pytest.approx(expected, rel=1e-4)


def test_without_guidance_the_negative_words_stay(backbone: Backbone) -> None:
    """At gamma 1 the negative prompt cancels out of the loss: decay alone would move its words."""
    few = ["words.steps=3", "words.weight_decay=0.0", "words.lr={'*'=1e-2}"]
    stored = [
        fit(
            load_recipe("dreamartist", overrides=[*few, f"tokens.negative.scale={scale}"]),
            make_subject(),
            backbone,
        )[0].tensors
        for scale in (1.0, 5.0)
    ]
    start = fit(load_recipe("dreamartist", overrides=["words.steps=0"]), make_subject(), backbone)[
        0
    ].tensors
    name = "tokens.negative/<negative>/rows"
    assert torch.equal(stored[0][name], start[name])
    assert not torch.equal(stored[1][name], start[name])


def test_the_command_draws_against_the_learned_words_and_the_users(tmp_path: Path) -> None:
    folder, out = tmp_path / "rex", tmp_path / "out"
    folder.mkdir()
    save_image(make_picture(1), folder / "a.png")
    where = ["--noun", "dog", "--token", "<rex>", "--backbone", "tiny", "--no-preview"]
    few = ["--set", "words.steps=1"]
    assert main(["fit", "dreamartist", str(folder), "--out", str(out), *where, *few]) == 0
    pictures = []
    for i, negative in enumerate((None, "", "<negative>", "blurry <negative>")):
        drawn = tmp_path / f"drawn-{i}"
        said = [] if negative is None else ["--negative", negative]
        options = ["--out", str(drawn), "-n", "1", "--steps", "2", "--seed", "3", *said]
        assert main(["sample", str(out), "a photo of <rex>", *options]) == 0
        pictures.append(torch.stack([read_image(str(f)) for f in sorted(drawn.glob("*.png"))]))
    plain, empty, named, more = pictures
    assert torch.equal(plain, named)
    assert not torch.equal(plain, empty)
    assert not torch.equal(plain, more)


def test_the_words_start_at_the_first_noun_with_little_noise(backbone: Backbone) -> None:
    concepts = (Concept("a", "<a>", "dog"), Concept("b", "<b>", "cat"))
    subject = replace(make_subject(), concepts=concepts)
    few = ["words.steps=0", "tokens.negative.noise={}", "tokens.negative.vectors=2"]
    rows = {}
    for noise in ("0.0", "0.25"):
        recipe = load_recipe("dreamartist", overrides=[f.format(noise) for f in few])
        rows[noise] = fit(recipe, subject, backbone)[0].tensors["tokens.negative/<negative>/rows"]
    expected = EngineRun(load_recipe("dreamartist"), backbone).embed_words("dog").mean(0)
    assert rows["0.0"].shape == (2, len(expected))
    torch.testing.assert_close(rows["0.0"], expected.expand(2, -1))
    added = rows["0.25"] - rows["0.0"]
    assert 0.15 < float(added.std()) < 0.35
    assert not torch.allclose(added[0], added[1])
