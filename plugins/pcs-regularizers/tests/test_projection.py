"""Rows behind each step: their norm, the span they stay in, and in which steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torchvision.utils import save_image

from pcs_cli.main import main
from pcs_core import Technique, fit, hookimpl
from pcs_core.backbone import Backbone
from pcs_core.data import Phase
from pcs_core.errors import RecipeError
from pcs_regularizers.projection import Projection
from pcs_testing import make_picture, make_recipe, make_subject
from pcs_tokens.learnable import LearnableToken

WORDS = ("dog", "snow", "car", "beach")


class Seen(Technique):
    """Keeps the rows in front of every step."""

    id = "test.seen"
    rows: Any = None

    @hookimpl
    def regularize(self, run: Any, step: Any) -> None:
        (value,) = run.trained("*/rows").values()
        self.rows.append(value.detach().double().clone())


def walk(backbone: Backbone, projection: Projection, steps: int = 5) -> list[torch.Tensor]:
    """Return the rows [S n d] in front of each step, and behind the last."""
    rows: list[torch.Tensor] = []
    token = LearnableToken(vectors=2, noise=0.6)
    recipe = make_recipe([token, projection, Seen(rows=rows)], Phase("p", steps, lr={"*": 0.1}))
    (artifact,) = fit(recipe, make_subject(), backbone)
    (last,) = artifact.tensors.values()
    return [*rows, last.double()[None]]


def table(backbone: Any, *words: str) -> torch.Tensor:
    ids = [i for word in words for i in backbone.tokenizer.encode(word)]
    return backbone.embedding.weight[ids].double().detach()  # type: ignore[no-any-return]


def test_behind_every_step_rows_have_the_norm_of_the_noun(backbone: Backbone) -> None:
    start, *behind = walk(backbone, Projection(onto="noun_norm"))
    norm = float(table(backbone, "dog").mean(0).norm())
    assert abs(float(start.norm(dim=-1)[0, 0]) - norm) > 0.05 * norm
    for rows in behind:
        torch.testing.assert_close(
            rows.norm(dim=-1), torch.full((1, 2), norm).double(), rtol=1e-5, atol=0
        )
    assert not torch.equal(behind[0], behind[-1])


def test_a_step_may_keep_the_norm_that_it_began_with_in_a_window_of_the_phase(
    backbone: Backbone,
) -> None:
    """Steps 2 and 3 of 5 lie in [0.4, 0.8)."""
    rows = walk(backbone, Projection(onto="last_norm", window=(0.4, 0.8)))
    norms = torch.stack([r.norm(dim=-1).flatten() for r in rows])
    changes = ((norms[1:] - norms[:-1]).abs() / norms[:-1]).amax(1)
    assert changes[[2, 3]].max() < 1e-6 < 1e-4 < changes[[0, 1, 4]].min()
    # directions go on moving meanwhile
    assert float((rows[4] - rows[2]).abs().max()) > 1e-3


def test_directions_are_those_of_the_free_step(backbone: Backbone) -> None:
    free = walk(backbone, Projection(window=(0.0, 0.0)), steps=1)[1]
    kept = walk(backbone, Projection(onto="last_norm"), steps=1)
    start, end = kept
    unit = free / free.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(end, unit * start.norm(dim=-1, keepdim=True), rtol=1e-5, atol=1e-7)


def test_rows_stay_in_the_span_of_words(backbone: Backbone) -> None:
    *_, free = walk(backbone, Projection(window=(0.0, 0.0)))
    *_, rows = walk(backbone, Projection(onto="span", texts=WORDS))
    words = table(backbone, *WORDS)
    for value, inside in ((rows, True), (free, False)):
        solved = torch.linalg.lstsq(words.T, value[0].T).solution
        rest = float((words.T @ solved - value[0].T).norm()) / float(value.norm())
        assert (rest < 1e-5) == inside


def test_or_on_the_principal_directions_around_their_mean(backbone: Backbone) -> None:
    """By the covariance's eigenvectors, which the class does not compute."""
    *_, rows = walk(backbone, Projection(onto="span", texts=WORDS, components=2))
    words = table(backbone, *WORDS)
    mean = words.mean(0)
    covariance = (words - mean).T @ (words - mean)
    _, vectors = torch.linalg.eigh(covariance)
    away = rows[0] - mean
    inside = away @ vectors[:, -2:] @ vectors[:, -2:].T
    assert float((away - inside).norm()) < 1e-5 * float(away.norm())
    one = away @ vectors[:, -1:] @ vectors[:, -1:].T
    assert float((away - one).norm()) > 1e-3 * float(away.norm())


def test_each_subject_has_the_norm_of_its_own_noun(backbone: Backbone) -> None:
    subjects = [
        make_subject("a", token="<a>", noun="dog"),
        make_subject("b", token="<b>", noun="beach"),
    ]
    recipe = make_recipe([LearnableToken(noise=0.5), Projection()], Phase("p", 2, lr={"*": 0.1}))
    for artifact, noun in zip(fit(recipe, subjects, backbone), ("dog", "beach"), strict=True):
        (rows,) = artifact.tensors.values()
        assert float(rows.norm()) == pytest.approx(
            float(table(backbone, noun).mean(0).norm()), rel=1e-5
        )


def test_a_span_of_no_words_is_refused(backbone: Backbone) -> None:
    with pytest.raises(RecipeError, match="`texts` names no words"):
        walk(backbone, Projection(onto="span"))


def test_a_fit_of_the_command_stores_rows_that_keep_to_it(
    tmp_path: Path, backbone: Backbone
) -> None:
    folder = tmp_path / "rex"
    folder.mkdir()
    for i in range(2):
        save_image(make_picture(i), folder / f"{i}.png")
    (tmp_path / "normed.toml").write_text(
        '[recipe]\nid = "normed"\n'
        '[[use]]\ntechnique = "tokens.learnable"\nnoise = 0.5\n'
        '[[use]]\ntechnique = "regularizers.projection"\nonto = "noun_norm"\n'
        '[[phase]]\nname = "word"\nsteps = 2\nlr = 0.1\n'
    )
    where = ["--noun", "dog", "--token", "<rex>", "--backbone", "tiny", "--no-preview"]
    out = tmp_path / "out"
    recipe = str(tmp_path / "normed.toml")
    assert main(["fit", recipe, str(folder), *where, "--out", str(out)]) == 0
    (file,) = out.rglob("weights.safetensors")
    (rows,) = load_file(file).values()
    assert float(rows.norm()) == pytest.approx(
        float(table(backbone, "dog").mean(0).norm()), rel=1e-5
    )
