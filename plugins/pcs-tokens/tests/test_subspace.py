"""Words in a subspace: which directions, where they begin, what a drawing keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import fit, open_backbone
from pcs_core.backbone import Backbone
from pcs_core.data import Phase, TokenEdit
from pcs_core.errors import RecipeError
from pcs_testing import build_fusion, make_recipe, make_subject
from pcs_testing.fixtures import extracted
from pcs_tokens.subspace import BASIS, ORIGIN, SubspaceToken

SETTINGS: dict[str, Any] = {"dimensions": 6, "begin": "start"}


def edit_of(backbone: Backbone, **settings: Any) -> TokenEdit:
    recipe = make_recipe([SubspaceToken(**{**SETTINGS, **settings})])
    (edit,) = build_fusion(recipe, [make_subject()], backbone).edits
    assert isinstance(edit, TokenEdit)
    return edit


def table(backbone: Any) -> torch.Tensor:
    return backbone.embedding.weight.detach().double()


def test_directions_explain_the_table_best(backbone: Backbone) -> None:
    basis = edit_of(backbone).basis[0].double()  # type: ignore[index, union-attr]
    torch.testing.assert_close(basis @ basis.T, torch.eye(6, dtype=torch.double), atol=1e-5, rtol=0)
    away = table(backbone) - table(backbone).mean(0)
    explained = (away @ basis.T).square().sum()
    most = torch.linalg.svdvals(away)[:6].square().sum()
    torch.testing.assert_close(explained, most, rtol=1e-5, atol=0)


def test_the_start_is_the_noun_and_the_mean_of_the_table(backbone: Any) -> None:
    noun = table(backbone)[backbone.tokenizer.encode("dog")].mean(0)
    rows = edit_of(backbone).vocabulary()[0, 0].double()
    torch.testing.assert_close(rows, noun + table(backbone).mean(0), atol=1e-6, rtol=0)
    plain = edit_of(backbone, centred=False).vocabulary()[0, 0].double()
    torch.testing.assert_close(plain, noun, atol=1e-6, rtol=0)


def test_random_directions_have_the_tables_spread(backbone: Backbone) -> None:
    basis = edit_of(backbone, basis="random", dimensions=512).basis  # type: ignore[union-attr]
    expected = float(table(backbone).std()) / 512**0.5
    assert float(basis.std()) == pytest.approx(expected, rel=0.05)  # type: ignore[operator]


def test_words_may_span_it(backbone: Any) -> None:
    basis = edit_of(backbone, span=("dog", "cat", "snow"), dimensions=2).basis[0].double()  # type: ignore[index, union-attr]
    words = torch.stack(
        [table(backbone)[backbone.tokenizer.encode(w)].mean(0) for w in ("dog", "cat", "snow")]
    )
    away = words - words.mean(0)
    torch.testing.assert_close(away @ basis.T @ basis, away, atol=1e-5, rtol=0)


def test_more_directions_than_there_are_is_refused(backbone: Backbone) -> None:
    with pytest.raises(
        RecipeError, match="dimensions is 40, and .* 32 principal directions: lower it"
    ):
        edit_of(backbone, dimensions=40)


def pictures(backbone: Backbone, **settings: Any) -> torch.Tensor:
    given = {
        "begin": "pictures",
        "model": "tiny.clip",
        "classes": ("dog", "cat", "snow"),
        "centred": False,
    }
    return edit_of(backbone, **{**given, **settings}).vocabulary()[0, 0].detach()


def test_pictures_weigh_the_class_words(backbone: Any) -> None:
    """A cold softmax takes the class that is most like the pictures; a hot one takes their mean."""
    words = [
        table(backbone)[backbone.tokenizer.encode(w)].mean(0).float()
        for w in ("dog", "cat", "snow")
    ]
    hot = pictures(backbone, temperature=10.0, length="kept")
    torch.testing.assert_close(hot, torch.stack(words).mean(0), atol=0.02, rtol=0.2)
    cold = pictures(backbone, temperature=1e-6, length="kept")
    shares = torch.linalg.lstsq(torch.stack(words).T, cold[:, None]).solution[:, 0]
    # a whole number of the pictures took each class
    count = len(make_subject().images)
    torch.testing.assert_close(shares * count, (shares * count).round(), atol=1e-3, rtol=0)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-3)


def test_the_start_has_the_length_that_is_asked_for(backbone: Any) -> None:
    assert float(pictures(backbone).norm()) == pytest.approx(1, abs=1e-5)
    noun = table(backbone)[backbone.tokenizer.encode("dog")].mean(0).norm()
    assert float(pictures(backbone, length="noun").norm()) == pytest.approx(float(noun), rel=1e-5)


def test_a_drawing_keeps_directions_and_start(backbone: Backbone) -> None:
    recipe = make_recipe([SubspaceToken(**SETTINGS)], Phase("all", 2))
    (artifact,) = fit(recipe, make_subject(), backbone)
    assert {BASIS, ORIGIN} <= artifact.features.keys()
    assert artifact.tensors["tokens.subspace/<fido>/coordinates"].shape == (1, 6)
    _, features, _ = extracted(recipe, [make_subject()], backbone)
    assert torch.equal(features.tensors[BASIS][0], artifact.features[BASIS])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return open_backbone("tiny")
