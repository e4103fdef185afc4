"""Rows per layer: what each layer reads, stages of the noise level, and mixing of two subjects."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import fit, merge_personalizations, recipe_from_document, sample
from pcs_core.backbone import Attachment, Backbone, select_sites, tokenise
from pcs_core.data import Phase, Subject, TokenEdit
from pcs_core.errors import InputError
from pcs_testing import build_fusion, evaluate, make_recipe, make_subject, perturb
from pcs_tokens.layerwise import LayerwiseToken, StagedRows
from pcs_tokens.learnable import LearnableToken

PROMPT = "a photo of <fido> on the beach"


def texts(backbone: Backbone, fusion: Any, time: float | None = None) -> torch.Tensor:
    """Return the text [b layers l d] that each layer reads."""
    prompts = tokenise([PROMPT, PROMPT], backbone.tokenizer, tokens=fusion.of(TokenEdit))
    level = None if time is None else torch.tensor([time, time])
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        layered = net.encode_text(prompts, torch.tensor([0, 0]), time=level).layered
    assert layered is not None
    return layered


def fusion_of(backbone: Backbone, subjects: Any = None, **settings: Any) -> Any:
    recipe = make_recipe([LayerwiseToken(**settings)])
    return build_fusion(recipe, subjects or [make_subject()], backbone)


def test_a_row_changes_its_own_layer_alone(backbone: Backbone) -> None:
    layers = len(select_sites(backbone.sites, "cross"))
    fusion = fusion_of(backbone)
    assert fusion.of(TokenEdit)[0].rows.shape == (1, 1, layers, 1, 32)
    before = texts(backbone, fusion)
    for layer in range(layers):
        with torch.no_grad():
            fusion.of(TokenEdit)[0].rows[:, :, layer] += 1.0
        after = texts(backbone, fusion)
        moved = [not torch.equal(before[:, i], after[:, i]) for i in range(layers)]
        assert moved == [i == layer for i in range(layers)]
        before = after


def test_equal_rows_are_a_plain_token(backbone: Backbone) -> None:
    plain = build_fusion(make_recipe([LearnableToken()]), [make_subject()], backbone)
    torch.testing.assert_close(
        evaluate(backbone, fusion_of(backbone), (PROMPT,)), evaluate(backbone, plain, (PROMPT,))
    )


def test_shared_rows_are_the_same_everywhere(backbone: Backbone) -> None:
    fusion = fusion_of(backbone, shared=True)
    perturb(fusion, scale=0.3)
    read = texts(backbone, fusion)
    assert all(torch.equal(read[:, 0], read[:, i]) for i in range(read.shape[1]))


def test_stages_of_the_noise_level(backbone: Backbone) -> None:
    fusion = fusion_of(backbone, stages=4)
    perturb(fusion, scale=0.3)
    read = {t: texts(backbone, fusion, t) for t in (0.0, 0.1, 0.3, 1.0, None)}
    assert torch.equal(read[0.0], read[0.1])
    assert not torch.equal(read[0.1], read[0.3])
    assert not torch.equal(read[0.3], read[1.0])


def test_without_a_noise_level_the_middle_stage_speaks() -> None:
    rows = torch.arange(5.0).view(1, 5, 1, 1, 1)
    edit = StagedRows(rows, ["<x>"], ["dog"])
    assert edit.layer(None, 2).flatten().tolist() == [2.0, 2.0]
    times = torch.tensor([0.0, 0.19, 0.21, 0.99, 1.0])
    subject = torch.zeros(5, dtype=torch.long)
    assert edit.layer(times, 1, subject).flatten().tolist() == [0.0, 0.0, 1.0, 4.0, 4.0]


def test_mixed_starts_half_from_noise(backbone: Backbone) -> None:
    rows = fusion_of(backbone, vectors=2, init="mixed").of(TokenEdit)[0].rows[0, 0, 0]
    noun = fusion_of(backbone).of(TokenEdit)[0].rows[0, 0, 0, 0]
    torch.testing.assert_close(rows[1], noun)
    assert not torch.allclose(rows[0], noun)


@pytest.mark.parametrize("stages", [1, 3])
def test_subjects_train_in_one_forward(backbone: Backbone, stages: int) -> None:
    technique = LayerwiseToken(stages=stages)
    recipe = make_recipe([technique], Phase("p", 3, lr={"*": 0.1}, optimizer="sgd"))
    subjects = [make_subject(), make_subject("other", token="<other>", noun="cat", seed=1)]
    for subject, together in zip(subjects, fit(recipe, subjects, backbone), strict=True):
        (alone,) = fit(recipe, subject, backbone)
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(tensor, together.tensors[name])


def artifact(backbone: Backbone, subject: Subject, **settings: Any) -> Any:
    document = {
        "recipe": {"id": "mine"},
        "use": [{"technique": "tokens.layerwise", "init": "random", **settings}],
        "phase": [{"name": "p", "steps": 1, "lr": 1e-2}],
        "sample": {"steps": 2},
    }
    return fit(recipe_from_document(document), subject, backbone)[0]


def test_mixing_takes_fine_layers_from_the_second(backbone: Backbone) -> None:
    both = [
        artifact(backbone, make_subject("a", token="<a>")),
        artifact(backbone, make_subject("b", token="<b>", seed=1)),
    ]
    mixed = merge_personalizations(both, backbone, method="mix-layers")
    ((name, rows),) = mixed.tensors.items()
    assert name == "tokens.layerwise/<a>/rows"
    for i, site in enumerate(select_sites(backbone.sites, "cross")):
        source = both[1] if site.scale == 1 else both[0]
        assert torch.equal(rows[:, i], next(iter(source.tensors.values()))[:, i])
    assert sample(mixed, backbone, "a photo of <a>").shape[0] == 1
    with pytest.raises(InputError, match="no cross-attention site matches"):
        merge_personalizations(both, backbone, method="mix-layers", fine="nothing")


def test_what_does_not_mix_is_refused(backbone: Backbone) -> None:
    a = artifact(backbone, make_subject("a", token="<a>"), shared=True)
    b = artifact(backbone, make_subject("b", token="<b>"), shared=True)
    with pytest.raises(InputError, match="shares its rows"):
        merge_personalizations([a, b], backbone, method="mix-layers")
    other = artifact(backbone, make_subject("b", token="<b>"), vectors=2)
    with pytest.raises(InputError, match="do not mix"):
        merge_personalizations([a, other], backbone, method="mix-layers")
