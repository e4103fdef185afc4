"""A rare string and the noun stand for the subject; nothing new is embedded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core import fit, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Concept
from pcs_testing import build_fusion, evaluate, make_recipe, make_subject
from pcs_tokens.rare import RareToken

OPTIONS: dict[str, Any] = {"steps": 2, "scale": 2.0}


@pytest.mark.parametrize(
    ("settings", "prompt", "plain"),
    [
        ({}, "a <fido> on the beach", "a sks dog on the beach"),
        ({}, "a <fido> dog on the beach", "a sks dog on the beach"),
        ({"identifier": "xyz"}, "a <fido>", "a xyz dog"),
        ({"with_noun": False}, "a <fido>", "a sks"),
        ({"with_noun": False}, "a <fido> dog", "a sks dog"),
        ({"identifier": ""}, "a <fido> dog on the beach", "a dog on the beach"),
        ({"identifier": "", "with_noun": False}, "a <fido>", "a dog"),
    ],
)
def test_the_network_reads_plain_text(
    backbone: Backbone, settings: dict[str, Any], prompt: str, plain: str
) -> None:
    fusion = build_fusion(make_recipe([RareToken(**settings)]), [make_subject()], backbone)
    assert not fusion.edits
    assert torch.equal(evaluate(backbone, fusion, (prompt,)), evaluate(backbone, prompts=(plain,)))


def test_pictures_are_those_of_the_plain_text(backbone: Backbone) -> None:
    (artifact,) = fit(make_recipe([RareToken()]), make_subject(), backbone)
    assert not artifact.tensors
    ours = sample(artifact, backbone, "a photo of <fido> in snow", scheduler="ddim", **OPTIONS)
    plain = sample(None, backbone, "a photo of sks dog in snow", scheduler="ddim", **OPTIONS)
    assert torch.equal(ours, plain)


def test_a_second_concept_gets_a_number(backbone: Backbone) -> None:
    subject = make_subject()
    subject = replace(subject, concepts=(*subject.concepts, Concept("ball", "<ball>", "toy")))
    fusion = build_fusion(make_recipe([RareToken()]), [subject], backbone)
    assert [w.text for w in fusion.words] == ["sks dog", "sks2 toy"]


def test_subjects_keep_their_own_nouns(backbone: Backbone) -> None:
    subjects = [
        make_subject("a", token="<it>", noun="dog"),
        make_subject("b", token="<it>", noun="car"),
    ]
    fusion = build_fusion(make_recipe([RareToken()]), subjects, backbone)
    both = evaluate(backbone, fusion, ("a <it>", "a <it>"), [0, 1])
    plain = evaluate(backbone, prompts=("a sks dog", "a sks car"))
    assert torch.equal(both, plain)
