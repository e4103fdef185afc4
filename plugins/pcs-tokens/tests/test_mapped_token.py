"""The computed word: norm, noise level and layer, nested dropout, and the bypass of the values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import fit, load, recipe_from_document, sample, save
from pcs_core.backbone import Backbone, select_sites
from pcs_core.data import AttnEdit, AttnState, Conditioning, Phase, Site, TokenEdit
from pcs_testing import build_fusion, make_recipe, make_subject
from pcs_tokens.mapper import MappedToken, forward_numbers
from pcs_tokens.mapper_network import Mapper

SMALL: dict[str, Any] = {"frequencies": 32, "hidden": 16, "anchors": 3}
TIMES = torch.tensor([0.1, 0.4, 0.9])


def fusion_of(backbone: Backbone, **settings: Any) -> Any:
    technique = MappedToken(**{**SMALL, **settings})
    return build_fusion(make_recipe([technique]), [make_subject()], backbone)


def test_the_norm_is_the_nouns_and_every_cell_differs(backbone: Any) -> None:
    layers = len(select_sites(backbone.sites, "cross"))
    (edit,) = fusion_of(backbone).of(TokenEdit)
    said = edit.eval().layer(TIMES, layers, torch.zeros(3, dtype=torch.long))
    assert said.shape == (3, layers, 1, 32)
    noun = backbone.embedding.weight[backbone.tokenizer.encode("dog")].mean(0).norm()
    torch.testing.assert_close(said.norm(dim=-1), noun.expand(3, layers, 1))
    cells = said.flatten(0, 2)
    apart = torch.cdist(cells, cells) + torch.eye(len(cells))
    assert apart.min() > 1e-3
    free = fusion_of(backbone, rescale=False).of(TokenEdit)[0]
    norms = free.layer(TIMES, layers, torch.zeros(3, dtype=torch.long)).norm(dim=-1)
    assert (norms - noun).abs().max() > 1e-3


def test_anchors_start_from_their_own_encodings() -> None:
    rng = torch.Generator().manual_seed(0)
    sizes: dict[str, Any] = {"layers": 2, "width": 8, "bypass": 0, "anchors": 5, "hidden": 8}
    mapper = Mapper([rng], frequencies=512, sigmas=(0.03, 2.0), dropout=0.0, **sizes)
    subject = torch.zeros(1, dtype=torch.long)
    there = mapper.encode(torch.tensor([[0.2]]), torch.tensor([[1.0]]), subject)
    alike = (mapper.anchors[0] @ there[0, 0]).detach()
    assert alike.argmax() == 1 * 2 + 1  # the second of five noise levels, the second layer
    torch.testing.assert_close(alike.max(), torch.tensor(1.0))


def test_the_last_of_ten_anchors_is_at_900() -> None:
    """Not at 1000, a level that no step has: range(0, 1000, 100) in the authors' code."""
    rng = torch.Generator().manual_seed(0)
    sizes: dict[str, Any] = {"layers": 1, "width": 8, "bypass": 0, "anchors": 10, "hidden": 8}
    mapper = Mapper([rng], frequencies=512, sigmas=(0.03, 2.0), dropout=0.0, **sizes)
    subject = torch.zeros(1, dtype=torch.long)
    levels = torch.arange(10)[None] / 10
    there = mapper.encode(levels, torch.zeros(1, 10), subject)
    torch.testing.assert_close(mapper.anchors.detach(), there, rtol=1e-5, atol=1e-5)


def test_layers_are_numbered_in_the_order_of_a_forward_pass() -> None:
    """Stable Diffusion's 16: the middle is 6, though the network lists it last."""
    blocks = [*["down.0"] * 2, *["down.1"] * 2, *["down.2"] * 2]
    blocks += [*["up.1"] * 3, *["up.2"] * 3, *["up.3"] * 3, "mid"]
    sites = [Site(f"{b}.{i}", "denoiser", "cross", 1, block=b) for i, b in enumerate(blocks)]
    assert forward_numbers(sites) == [*range(6), *range(7, 16), 6]


def test_word_and_bypass_of_a_layer_are_told_its_number(backbone: Backbone) -> None:
    fusion = fusion_of(backbone, layers="forward")
    sites = select_sites(backbone.sites, "cross")
    numbers = forward_numbers(sites)
    assert [s.block for s in sites][-1] == "mid"
    assert numbers[-1] != len(sites) - 1
    assert [e.number for e in fusion.of(AttnEdit)] == numbers
    (edit,) = fusion.of(TokenEdit)
    subject = torch.zeros(1, dtype=torch.long)
    said = edit.eval().layer(TIMES[:1], len(sites), subject)
    for place, number in enumerate(numbers):
        word, _ = edit.mapper(TIMES[:1], torch.tensor([number]), subject)
        expected = torch.nn.functional.normalize(word[:, 0], dim=-1) * edit.norm
        torch.testing.assert_close(said[:, place, 0], expected)
    listed = fusion_of(backbone)  # what artifacts without the setting mean
    assert [e.number for e in listed.of(AttnEdit)] == list(range(len(sites)))


def test_nested_dropout_keeps_a_beginning_and_repeats(backbone: Backbone) -> None:
    (edit,) = fusion_of(backbone, hidden=64).of(TokenEdit)
    time, layers = torch.linspace(0.001, 1, 400), torch.arange(4)
    subject = torch.zeros(400, dtype=torch.long)
    mask = edit.mapper.kept(time, layers, subject)
    kept = mask.sum(-1)
    assert torch.equal(mask, (torch.arange(64) < kept[..., None]).float())
    assert kept.min() == 0
    dropped = kept[kept < 64]
    assert 0.4 < len(dropped) / kept.numel() < 0.6
    assert 24 < dropped.mean() < 40
    assert torch.equal(mask, edit.mapper.kept(time, layers, subject))
    said = [edit.train(on).layer(time[:8], 4, subject[:8]) for on in (True, False)]
    assert not torch.equal(*said)


def test_the_bypass_changes_values_at_the_word_alone(backbone: Backbone) -> None:
    fusion = fusion_of(backbone)
    for edit in fusion.of(AttnEdit):
        text = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))
        weight = edit.borrowed[1].detach()
        x, value = torch.zeros(2, 4, 64), text @ weight.T
        state = AttnState(edit.site, x, text, edit.site.heads, x, value.clone(), value.clone())
        cond = Conditioning(
            text=text,
            subject=torch.zeros(2, dtype=torch.long),
            spans={"concept.0": torch.tensor([[3], [-1]])},
            time=TIMES[:2],
        )
        with torch.no_grad():
            after = edit.qkv(state, cond)
        assert torch.equal(after.k, value)
        moved = (after.v - value).abs().amax(-1) > 0
        assert moved.nonzero().tolist() == [[0, 3]]
        change = torch.linalg.lstsq(weight, (after.v - value)[0, 3][:, None]).solution
        torch.testing.assert_close(change.norm(), 0.2 * text[0, 3].norm(), rtol=1e-3, atol=1e-4)


def test_without_a_bypass_only_the_word_is_computed(backbone: Backbone) -> None:
    assert not fusion_of(backbone, bypass=0.0).of(AttnEdit)


def test_it_is_saved_and_drawn(backbone: Backbone, tmp_path: Path) -> None:
    document = {
        "recipe": {"id": "mapped"},
        "use": [{"technique": "tokens.mapper", **SMALL}],
        "phase": [{"name": "p", "steps": 2, "lr": 1e-2}],
        "sample": {"steps": 2},
    }
    (artifact,) = fit(recipe_from_document(document), make_subject(), backbone)
    save(artifact, tmp_path / "a")
    options: dict[str, Any] = {"seed": 1}
    first = sample(artifact, backbone, "a <fido>", **options)
    assert torch.equal(first, sample(load(tmp_path / "a"), backbone, "a <fido>", **options))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_subjects_train_in_one_forward(backbone: Backbone, dropout: float) -> None:
    technique = MappedToken(**SMALL, nested_dropout=dropout)
    recipe = make_recipe([technique], Phase("p", 2, batch={"subject": 2}, lr={"*": 0.01}))
    subjects = [make_subject(), make_subject("other", token="<other>", noun="cat", seed=1)]
    for subject, together in zip(subjects, fit(recipe, subjects, backbone), strict=True):
        (alone,) = fit(recipe, subject, backbone)
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(tensor, together.tensors[name], rtol=1e-3, atol=1e-4)
