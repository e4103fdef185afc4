"""Systems of learned words and attention maps hold the numbers of their releases."""

from __future__ import annotations

from typing import Any

import pytest

from pcs_core import load_recipe
from pcs_core.catalogue import catalogue
from pcs_engine.rates import rate_factor


def settings(system: str, use: str, backbone: str | None = None) -> dict[str, Any]:
    """Return the settings of a use."""
    recipe = load_recipe(system, backbone=backbone)
    return next(u.technique.settings() for u in recipe.uses if u.name == use)


def test_mix_of_show_reduces_its_terms_as_the_release() -> None:
    """Five of six configurations penalise outside; four grids and two words are summed, not averaged."""
    loss = settings("mix-of-show", "attention.localization_loss")
    assert (loss["mode"], loss["weight"], loss["scale"]) == ("outside", 0.01, None)
    assert (loss["grids"], loss["tokens"], loss["peaks"]) == ("each", "sum", "batch")
    mask = settings("mix-of-show", "masks.masked_loss")
    assert (mask["normalise"], mask["channels"], mask["background"]) == (True, "sum", 0.0)
    assert settings("mix-of-show", "tokens.layerwise")["sigma"] == 0.013


def test_rates_of_mix_of_show_fall_to_zero_in_a_line() -> None:
    (phase,) = load_recipe("mix-of-show").phases
    assert phase.weight_decay == 0.01
    assert (phase.steps, dict(phase.batch)) == (1000, {"subject": 4})
    factors = [rate_factor(phase, index) for index in (0, 250, 500, 999)]
    assert factors == pytest.approx([1.0, 0.75, 0.5, 0.001])


def test_the_rate_of_textual_inversion_is_scaled_by_devices_and_batch() -> None:
    """5e-3 is the base; two devices of batch 4 make it 0.04 for steps of 8 pictures."""
    (phase,) = load_recipe("textual-inversion").phases
    assert phase.lr == {"*": pytest.approx(5e-3 * 2 * 4)}
    assert dict(phase.batch) == {"subject": 2 * 4}
    assert phase.weight_decay == 1e-2
    assert phase.schedule == "constant"


def test_break_a_scene_draws_one_generic_prompt_on_every_backbone() -> None:
    """A backbone's class prompt replaces sentences about a class, and this one is about none."""
    for target in (None, *catalogue().ids("profiles")):
        prior = settings("break-a-scene", "regularizers.prior_preservation", target)
        assert prior["prompt"] == "a photo at the beach"
        assert (
            "{noun}" in settings("dreambooth", "regularizers.prior_preservation", target)["prompt"]
        )


def test_break_a_scene_clips_and_decays_in_the_recipe() -> None:
    for phase in load_recipe("break-a-scene").phases:
        assert (phase.clip, phase.weight_decay, phase.schedule) == (1.0, 1e-2, "constant")


def test_break_a_scene_reads_maps_of_down_and_up_blocks() -> None:
    loss = settings("break-a-scene", "attention.localization_loss")
    assert (loss["mode"], loss["scale"], loss["masks"]) == ("match", 4, "nearest")
    assert loss["sites"] == "cross@down|cross@up"
    assert settings("break-a-scene", "masks.masked_loss")["normalise"] is False


def test_neti_numbers_layers_as_its_code() -> None:
    mapper = settings("neti", "tokens.mapper")
    assert (mapper["layers"], mapper["anchors"]) == ("forward", 10)
    (phase,) = load_recipe("neti").phases
    assert phase.lr == {"*": pytest.approx(1e-3 * 2 * 4)}
    assert (phase.accumulate, phase.weight_decay) == (4, 1e-2)


@pytest.mark.parametrize("system", ["textual-inversion", "neti"])
def test_half_of_the_pictures_are_mirrored(system: str) -> None:
    augment = settings(system, "data.augment")
    assert (augment["variants"], augment["flip"], augment["crop"], augment["rescale"]) == (
        1,
        1.0,
        0.0,
        None,
    )
