"""Numbers of a method stand in its recipe, with the unit and reduction of what it was published with."""

from __future__ import annotations

from typing import Any

import pytest

from pcs_core import load_recipe

PUBLISHED: dict[str, dict[str, Any]] = {
    "oft": {
        "lr": 6e-5,
        "batch": {"subject": 1, "prior": 1},
        "weight_decay": 1e-2,
        "clip": 1.0,
        "schedule": "constant",
        "warmup": 0,
        "optimizer": "adamw",
    },
    "custom-diffusion": {
        "lr": 1e-5 * 2 * 4,  # base rate, devices, batch size of a device
        "batch": {"subject": 4, "prior": 4},
        "steps": 250,
        "weight_decay": 1e-2,
        "schedule": "constant",
        "optimizer": "adamw",
    },
    "perfusion": {
        "lr": {"tokens.learnable/*": 6e-3, "weights.key_locked/*": 3e-2},
        "batch": {"subject": 4},
        "accumulate": 4,
        "steps": 400,
        "weight_decay": 1e-2,
        "schedule": "constant",
        "optimizer": "adamw",
    },
    "svdiff": {
        "lr": {"*norm*": 1e-6, "*": 1e-3},
        "batch": {"subject": 1, "prior": 1},
        "steps": 500,
        "weight_decay": 1e-2,
        "clip": 1.0,
        "schedule": "constant",
        "warmup": 0,
        "optimizer": "adamw",
    },
}
CAPTIONS = {
    "svdiff": ("photo of a {token}", "photo of a {noun}"),
    "oft": ("a photo of {token}", "a photo of {noun}"),
    "custom-diffusion": ("photo of a {token}", "photo of a {noun}"),
}


@pytest.mark.parametrize("system", PUBLISHED)
def test_numbers_stand_in_the_recipe(system: str) -> None:
    phase = load_recipe(system).phases[0]
    for name, value in PUBLISHED[system].items():
        actual: Any = getattr(phase, name)
        expected = {"*": value} if name == "lr" and not isinstance(value, dict) else value
        assert actual == pytest.approx(expected) if name == "lr" else actual == expected, (
            system,
            name,
        )


@pytest.mark.parametrize("system", CAPTIONS)
def test_one_caption_and_the_class_pictures_own(system: str) -> None:
    uses = {u.name: u.technique.settings() for u in load_recipe(system).uses}
    word = next(v for k, v in uses.items() if k.startswith("tokens."))
    assert list(word["templates"]) == [CAPTIONS[system][0]]
    assert uses["regularizers.prior_preservation"]["prompt"] == CAPTIONS[system][1]


def test_coft_has_the_scripts_blocks_and_eps() -> None:
    peft = next(u.technique.settings() for u in load_recipe("oft").uses if u.name == "weights.peft")
    assert (peft["coft"], peft["eps"], peft["blocks"]) == (True, 6e-5, 4)


def test_perfusion_locks_the_prompt_and_lets_no_ridge_decide() -> None:
    uses = {u.name: u.technique.settings() for u in load_recipe("perfusion").uses}
    locked = uses["weights.key_locked"]
    assert (locked["locking"], locked["ridge"], locked["captions"]) == ("prompt", 0.0, 2000)
    assert len(uses["tokens.learnable"]["templates"]) == 9


def test_mini_turns_as_far_as_stable_diffusion() -> None:
    """Radii eps n^2 / 2 of Mini's widths 80, 160, 320 are those of SD 1.5's 320, 640, 1280."""
    published, mini = (
        next(u.technique.settings()["eps"] for u in recipe.uses if u.name == "weights.peft")
        for recipe in (load_recipe("oft"), load_recipe("oft", backbone="mini"))
    )
    for width in (320, 640, 1280):
        assert mini * (width // 16) ** 2 == pytest.approx(published * (width // 4) ** 2)
