"""A drawing weighs what a fit has learned: 1 is as fitted to the bit, 0 the base, 1/2 the setting of 1/2."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_core import fit, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Personalization, Phase
from pcs_core.errors import InputError
from pcs_testing import make_recipe, make_subject
from pcs_tokens.learnable import LearnableToken
from pcs_weights.bottleneck import BottleneckAdapter
from pcs_weights.full import FullFinetune
from pcs_weights.key_locked import KeyLocking
from pcs_weights.kv import KVDelta
from pcs_weights.lora import LoRA
from pcs_weights.parameterised import Peft
from pcs_weights.svd import SpectralShifts

PROMPT = "a photo of <rex>"


def fitted(technique: Any, backbone: Backbone) -> Personalization:
    phase = Phase(name="all", steps=3, train=("*",), lr={"*": 0.05})
    recipe = make_recipe([technique], phase)
    (artifact,) = fit(recipe, [make_subject()], backbone)
    return artifact


def drawn(artifact: Personalization | None, backbone: Backbone, **strengths: float) -> Tensor:
    prompt = PROMPT if artifact is None else f"a photo of {artifact.concepts[0].token}"
    return sample(artifact, backbone, prompt, steps=2, scale=2.0, strengths=strengths)


def at_setting(artifact: Personalization, name: str, value: float) -> Personalization:
    (use,) = artifact.recipe.uses
    changed = type(use.technique).from_settings({**use.technique.settings(), name: value})
    return replace(
        artifact, recipe=replace(artifact.recipe, uses=(replace(use, technique=changed),))
    )


@pytest.mark.parametrize(
    ("technique", "setting"),
    [
        (LoRA(), ("alpha", 2.0)),
        (LoRA(per_reference=True), ("alpha", 2.0)),
        (LoRA(part="text", sites="*.q_proj"), ("alpha", 2.0)),
        (KVDelta(), ("strength", 0.5)),
        (BottleneckAdapter(), ("strength", 0.5)),
        (SpectralShifts(), ("strength", 0.5)),
        (FullFinetune(pattern="*.to_q.weight"), None),
        (Peft(kind="lora"), ("alpha", 2.0)),
        (Peft(kind="rslora"), ("alpha", 2.0)),
        (Peft(kind="loha"), ("alpha", 2.0)),
        (Peft(kind="lokr"), ("alpha", 2.0)),
    ],
    ids=lambda value: value.id + str(getattr(value, "kind", "")) if hasattr(value, "id") else "",
)
def test_one_half_and_nothing(backbone: Backbone, technique: Any, setting: Any) -> None:
    artifact = fitted(technique, backbone)
    (use,) = artifact.recipe.uses
    short = use.name.rpartition(".")[2]
    whole, base = (
        drawn(artifact, backbone),
        sample(
            None, backbone, PROMPT.replace("<rex>", artifact.concepts[0].token), steps=2, scale=2.0
        ),
    )
    assert (whole - base).abs().max() > 1e-3
    assert torch.equal(drawn(artifact, backbone, **{short: 1.0}), whole)
    assert (drawn(artifact, backbone, **{use.name: 0.0}) - base).abs().max() < 1e-6
    half = drawn(artifact, backbone, **{short: 0.5})
    assert min((half - other).abs().max() for other in (whole, base)) > 1e-4
    if setting:
        expected = drawn(at_setting(artifact, *setting), backbone)
        assert (half - expected).abs().max() < 1e-5
    assert torch.equal(drawn(artifact, backbone), whole)  # and nothing stays behind


def test_what_does_not_add_in_proportion_has_no_strength(backbone: Backbone) -> None:
    assert not any(Peft(kind=kind).weighed() for kind in ("dora", "oft", "boft"))
    artifact = fitted(Peft(kind="dora"), backbone)
    with pytest.raises(InputError, match=r"unknown strength 'peft'.*it has none"):
        drawn(artifact, backbone, peft=0.5)


def test_what_acts_in_a_fit_alone_has_no_strength() -> None:
    assert LoRA(mode="fit").weighed() == ()
    assert LoRA(mode="sample").weighed() == ("*/B",)


def test_a_word_lies_between_its_noun_and_what_it_has_learned(backbone: Backbone) -> None:
    artifact = fitted(LearnableToken(), backbone)
    noun = sample(None, backbone, f"a photo of {artifact.concepts[0].noun}", steps=2, scale=2.0)
    whole = drawn(artifact, backbone)
    assert torch.equal(drawn(artifact, backbone, learnable=1.0), whole)
    assert (drawn(artifact, backbone, learnable=0.0) - noun).abs().max() < 1e-6
    assert (drawn(artifact, backbone, learnable=0.5) - whole).abs().max() > 1e-5


def test_perfusion_has_the_strength_of_its_edit(backbone: Backbone) -> None:
    artifact = fitted(KeyLocking(captions=200), backbone)
    whole = drawn(artifact, backbone)
    assert torch.equal(drawn(artifact, backbone, **{"key_locked.strength": 1.0}), whole)
    half = drawn(artifact, backbone, **{"key_locked.strength": 0.5})
    expected = drawn(at_setting(artifact, "strength", 0.5), backbone)
    assert (half - expected).abs().max() < 1e-6
    assert (half - whole).abs().max() > 1e-4
