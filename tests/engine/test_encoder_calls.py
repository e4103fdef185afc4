"""What does not change is encoded once: calls of the VAE and the text encoder are counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core.assembly import load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import Phase, Recipe
from pcs_engine import fit, open_backbone
from pcs_testing import make_subject

STEPS = 4


class Counter:
    """Calls of the encoders in order, and pictures encoded.

    Preparation runs without gradients: the loop begins at the first call with them.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, bool]] = []
        self.pictures = 0

    def note(self, name: str) -> None:
        self.events.append((name, torch.is_grad_enabled()))

    @property
    def calls(self) -> dict[str, int]:
        return count(self.events)

    def in_loop(self) -> dict[str, int]:
        names = ("text", "unet")
        start = next(i for i, (n, grad) in enumerate(self.events) if grad and n in names)
        return count(self.events[start:])


def count(events: list[tuple[str, bool]]) -> dict[str, int]:
    return {name: sum(n == name for n, _ in events) for name in ("vae", "text", "unet")}


@contextmanager
def counting(backbone: Any) -> Iterator[Counter]:
    """Count forwards of the real modules by instance attributes, taken off again after."""
    counter = Counter()
    encode, text, unet = backbone.vae.encode, backbone.text_encoder, backbone.denoiser

    def encode_counted(x: Any, *args: Any, **kwargs: Any) -> Any:
        counter.note("vae")
        counter.pictures += x.shape[0]
        return encode(x, *args, **kwargs)

    def counted(name: str) -> Any:
        def note(*_: Any) -> None:
            counter.note(name)

        return note

    backbone.vae.encode = encode_counted
    handles = [
        text.register_forward_pre_hook(counted("text")),
        unet.register_forward_pre_hook(counted("unet")),
    ]
    try:
        yield counter
    finally:
        del backbone.vae.encode
        for handle in handles:
            handle.remove()


def recipe_of(system: str, **settings: Any) -> Recipe:
    overrides = [f"{k}={v}" for k, v in settings.items()]
    recipe = load_recipe(system, overrides=overrides)
    phases = tuple(replace(p, steps=STEPS) for p in recipe.phases)
    return replace(recipe, phases=phases)


def subjects(count: int) -> list[Any]:
    return [make_subject(n, token=f"<{n}>", images=3, seed=i) for i, n in enumerate("abc"[:count])]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return open_backbone("tiny")


def test_lora_encodes_nothing_in_the_loop(backbone: Backbone) -> None:
    with counting(backbone) as counter:
        fit(recipe_of("lora-dreambooth"), subjects(2), backbone)
    assert counter.in_loop() == {"vae": 0, "text": 0, "unet": STEPS}
    assert counter.pictures == 6
    assert counter.calls["vae"] == 2
    assert counter.calls["text"] == 1  # all captions of both subjects at once


def test_textual_inversion_encodes_text_once_per_step(backbone: Backbone) -> None:
    with counting(backbone) as counter:
        fit(recipe_of("textual-inversion"), subjects(3), backbone)
    assert counter.in_loop() == {"vae": 0, "text": STEPS, "unet": STEPS}
    assert counter.pictures == 18  # each once as it is and once mirrored


def test_full_finetuning_of_the_denoiser_keeps_the_text(backbone: Backbone) -> None:
    few = {"regularizers.prior_preservation.count": 2, "regularizers.prior_preservation.steps": 2}
    with counting(backbone) as counter:
        fit(recipe_of("dreambooth", **few), subjects(1), backbone)
    assert counter.in_loop() == {"vae": 0, "text": 0, "unet": STEPS}
    with counting(backbone) as counter:
        both = {**few, "weights.full.parts": '["denoiser", "text"]'}
        fit(recipe_of("dreambooth", **both), subjects(1), backbone)
    assert counter.in_loop() == {"vae": 0, "text": STEPS, "unet": STEPS}


def test_class_pictures_shared_by_subjects_are_drawn_and_encoded_once(backbone: Backbone) -> None:
    name = "regularizers.prior_preservation"
    settings = {f"{name}.count": 5, f"{name}.steps": 2, "data.augment.variants": 0}
    with counting(backbone) as counter:
        fit(recipe_of("custom-diffusion", **settings), subjects(3), backbone)
    assert counter.pictures == 3 * 3 + 5
    assert counter.in_loop()["vae"] == 0
    # 2 steps of 5 pictures in one batch, beside the steps of the fit
    assert counter.calls["unet"] == 2 + STEPS


def test_one_after_the_other_they_share_the_class_pictures_too(backbone: Backbone) -> None:
    few = {"regularizers.prior_preservation.count": 2, "regularizers.prior_preservation.steps": 3}
    with counting(backbone) as counter:
        fit(recipe_of("dreambooth", **few), subjects(2), backbone)
    assert counter.calls["unet"] == 3 + 2 * STEPS


def test_augmented_variants_are_encoded_once_each(backbone: Backbone) -> None:
    name = "regularizers.prior_preservation"
    settings = {f"{name}.count": 1, f"{name}.steps": 1, "data.augment.variants": 4}
    with counting(backbone) as counter:
        fit(recipe_of("custom-diffusion", **settings), subjects(1), backbone)
    assert counter.in_loop()["vae"] == 0
    assert counter.pictures <= 3 * (1 + 4) + 1


def test_text_kept_in_one_phase_is_not_read_in_a_phase_that_trains_it(backbone: Backbone) -> None:
    base = recipe_of("custom-diffusion")
    uses = tuple(u for u in base.uses if u.name in ("tokens.learnable", "weights.kv"))
    phases = (
        Phase("kv", 1, train=("weights.kv/*",), lr={"*": 1e-2}),
        Phase("token", STEPS, train=("tokens.learnable/*",), lr={"*": 1e-2}),
        Phase("kv again", 2, train=("weights.kv/*",), lr={"*": 1e-2}),
    )
    with counting(backbone) as counter:
        fit(replace(base, uses=uses, phases=phases), subjects(1), backbone)
    # the token's phase encodes in every step, the last one all captions once more
    assert counter.in_loop()["text"] == STEPS + 1
