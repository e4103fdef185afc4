"""Words of attributes: what the placeholder becomes, where each is read, what trains it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl
from pcs_core.backbone import Backbone
from pcs_core.data import Phase
from pcs_core.errors import RecipeError
from pcs_testing import build_fusion, make_recipe, make_subject
from pcs_testing.probe import Probe
from pcs_tokens.attributes import CELLS, AttributeWords, CellRows, in_layers, part_of

SEEN: list[float] = []


class Levels(Technique):
    id = "test.levels"

    @hookimpl
    def regularize(self, run: Any, step: Any) -> None:
        SEEN.append(float(run.backbone.process.fraction(step.level)[0]))


def edits_of(backbone: Backbone, **settings: Any) -> dict[str, CellRows]:
    fusion = build_fusion(make_recipe([AttributeWords(**settings)]), [make_subject()], backbone)
    return {e.key(0): e for e in fusion.of(CellRows)}


def test_the_placeholder_is_a_word_for_each_attribute(backbone: Backbone) -> None:
    fusion = build_fusion(make_recipe([AttributeWords()]), [make_subject()], backbone)
    (word,) = fusion.words
    assert word.text == "<fido.color> <fido.object> <fido.layout> <fido.style>"
    assert [e.key(0) for e in fusion.of(CellRows)] == word.text.split()
    assert part_of("<my-dog>", "style") == "<my-dog.style>"


def test_they_start_from_their_names_and_the_object_from_the_noun(backbone: Any) -> None:
    for token, edit in edits_of(backbone).items():
        name = token.strip("<>").partition(".")[2]
        word = "dog" if name == "object" else name
        expected = backbone.embedding.weight[backbone.tokenizer.encode(word)].mean(0)
        torch.testing.assert_close(edit.rows[0, 0], expected)


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c[0])
def test_a_word_is_read_in_its_cell_alone(backbone: Any, cell: Any) -> None:
    name, layers, least, most = cell
    edit = edits_of(backbone)[f"<fido.{name}>"]
    sites = [s for s in backbone.sites if s.kind == "cross"]
    times = torch.tensor([0.0, 0.2, 0.49, 0.5, 0.8, 1.0])
    rows = edit.layer(times, len(sites))[:, :, 0]
    blank = backbone.embedding.weight[backbone.tokenizer.encode("and")].mean(0)
    for place, site in enumerate(sites):
        for step, time in enumerate(times.tolist()):
            there = least <= time and (time < most or most == 1.0)
            there = there and (site.scale == 1) == (layers == "fine")
            torch.testing.assert_close(rows[step, place], edit.rows[0, 0] if there else blank)


def test_layers_of_one_grid_are_all_read(backbone: Backbone) -> None:
    sites = [s for s in backbone.sites if s.kind == "cross" and s.scale == 1]
    assert in_layers(sites, "coarse") == [True] * len(sites)
    assert in_layers(sites, "all") == [True] * len(sites)


def test_a_step_trains_the_words_of_its_noise_level(backbone: Backbone) -> None:
    """Of one row: colour and layout at a level above the middle, object and style below."""
    SEEN.clear()
    phase = Phase("p", 1, batch={"subject": 1}, lr={"*": 0.1}, optimizer="sgd")
    recipe = make_recipe([AttributeWords(), Levels()], phase)
    (artifact,) = fit(recipe, make_subject(), backbone)
    start = {token: edit.rows[0].detach() for token, edit in edits_of(backbone).items()}
    moved = {
        token.strip("<>").partition(".")[2]
        for token, rows in start.items()
        if not artifact.tensors[f"tokens.attributes/{token}/rows"].equal(rows)
    }
    assert moved == ({"color", "layout"} if SEEN[0] >= 0.5 else {"object", "style"})


def test_the_pair_is_pushed_apart(backbone: Backbone) -> None:
    edits = edits_of(backbone)
    first, second = (edits[f"<fido.{name}>"].rows[0, 0].detach() for name in ("color", "style"))
    phase = Phase("p", 1, lr={"*": 1e-9}, losses=("attributes.apart", "probe*"))
    (artifact,) = fit(
        make_recipe([AttributeWords(apart=1.0), Probe()], phase), make_subject(), backbone
    )
    cosine = torch.cosine_similarity(first, second, dim=0)
    assert artifact.losses["attributes.apart"] == pytest.approx(float(cosine**2), rel=1e-4)
    longer = Phase("p", 20, lr={"*": 0.02}, losses=("attributes.apart", "probe*"))
    recipe = make_recipe([AttributeWords(apart=1.0), Probe()], longer)
    (artifact,) = fit(recipe, make_subject(), backbone)
    rows = [artifact.tensors[f"tokens.attributes/<fido.{n}>/rows"][0] for n in ("color", "style")]
    assert abs(float(torch.cosine_similarity(*rows, dim=0))) < abs(float(cosine))


def test_a_pair_of_no_attribute_is_refused(backbone: Backbone) -> None:
    technique = AttributeWords(apart=1.0, pair=("color", "shade"))
    with pytest.raises(RecipeError, match="pair names 'shade', and the cells are color, object"):
        fit(make_recipe([technique], Phase("p", 1)), make_subject(), backbone)
