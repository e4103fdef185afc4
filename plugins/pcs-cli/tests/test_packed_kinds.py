"""Which kinds of owned state share a forward, with the results of separate runs, and which do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_cli.many.packer import Packer
from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Phase, Recipe, Subject
from pcs_engine import fit, open_backbone
from pcs_engine.fit import Fitting, checked
from pcs_testing import make_recipe, make_subject

WORD = ("tokens.learnable", {"vectors": 2})
PACKED: dict[str, list[list[tuple[str, dict[str, Any]]]]] = {
    # the techniques of each of three fits; one that is written once is all of theirs
    "words": [[WORD]],
    "words of every layer": [[("tokens.layerwise", {})]],
    "a network of words": [[("tokens.mapper", {})]],
    "lora of three ranks": [[WORD, ("weights.lora", {"rank": rank})] for rank in (1, 4, 2)],
    "lora of convolutions": [
        [("weights.lora", {"rank": rank, "sites": "*", "kind": "conv"})] for rank in (2, 1, 2)
    ],
    "lora of the text": [
        [("weights.lora", {"rank": rank, "sites": "*_proj", "part": "text"})] for rank in (1, 2, 1)
    ],
    "keys and values": [[("weights.kv", {"parts": ["q", "k", "v"], "sites": "attention"})]],
    "bottlenecks": [[("weights.bottleneck", {})]],
    "singular values": [[WORD, ("weights.svd", {"sites": "mid_block*|down_blocks.0*"})]],
}
APART = {
    "whole weights": ("weights.full", {"pattern": "mid_block*"}),
    "another library's": ("weights.peft", {"kind": "lora", "sites": "mid_block*.to_v"}),
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return open_backbone("tiny")


def recipe_of(techniques: list[tuple[str, dict[str, Any]]], steps: int) -> Recipe:
    known = catalogue()
    made = [known.get("techniques", id).from_settings(settings) for id, settings in techniques]
    return make_recipe(made, Phase("p", steps, lr={"*": 0.5}, optimizer="sgd", clip=0.5))


class Queue:
    """Three fits with seeds, steps and subjects of their own, packed two at a time."""

    def __init__(self, backbone: Backbone, recipes: list[Recipe], together: int = 2) -> None:
        self.backbone, self.recipes = backbone, recipes
        self.made: dict[int, Any] = {}
        self.said: list[str] = []
        self.packer = Packer(
            backbone,
            together=together,
            begin=self.begin,
            done=lambda number, artifacts: self.made.__setitem__(number, artifacts[0]),
            failed=lambda number, error: self.said.append(f"{number} failed: {error}"),
            say=self.said.append,
        )

    def subject(self, number: int) -> Subject:
        name = ("ann", "bob", "cy")[number]
        return make_subject(name, token=f"<{name}>", noun="dog", seed=number)

    def begin(self, number: int) -> Fitting:
        recipe = self.recipes[number]
        subjects, _ = checked(recipe, [self.subject(number)], self.backbone)
        return Fitting(recipe, subjects, self.backbone, number + 3, (), None, False, {})

    def run(self) -> None:
        self.packer.run(range(len(self.recipes)))

    def assert_as_alone(self) -> None:
        for number, recipe in enumerate(self.recipes):
            (alone,) = fit(recipe, self.subject(number), self.backbone, seed=number + 3)
            ours = self.made[number]
            assert ours.tensors.keys() == alone.tensors.keys()
            for name, tensor in alone.tensors.items():
                torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", PACKED)
def test_packed_fits_are_those_of_separate_runs(backbone: Backbone, kind: str) -> None:
    fits = PACKED[kind] if len(PACKED[kind]) > 1 else PACKED[kind] * 3
    recipes = [recipe_of(uses, steps) for uses, steps in zip(fits, (2, 3, 2), strict=True)]
    queue = Queue(backbone, recipes)
    queue.run()
    assert queue.said == []
    assert queue.packer.forwards == 4  # 7 steps in two places
    queue.assert_as_alone()


@pytest.mark.parametrize("kind", APART)
def test_what_does_not_pack_trains_one_after_the_other(backbone: Backbone, kind: str) -> None:
    queue = Queue(backbone, [recipe_of([APART[kind]], 1) for _ in range(2)])
    queue.run()
    (said,) = queue.said
    assert said.startswith(f"fits train one after the other: {APART[kind][0]!r}")
    assert queue.packer.forwards == 2
    queue.assert_as_alone()


def test_settings_that_act_in_the_network_keep_fits_apart(backbone: Backbone) -> None:
    recipes = [recipe_of([("weights.lora", {"rank": 2, "alpha": a})], 1) for a in (2.0, 4.0)]
    queue = Queue(backbone, recipes)
    queue.run()
    (said,) = queue.said
    assert "has another 'scale' in each" in said
    queue.assert_as_alone()
