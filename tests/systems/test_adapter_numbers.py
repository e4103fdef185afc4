"""Numbers of pre-trained systems are those of the authors' scripts, pinned in the recipes themselves."""

from __future__ import annotations

from typing import Any

import pytest

from pcs_core import load_recipe

PHASES: dict[str, dict[str, Any]] = {
    # tutorial_train.py: AdamW at 1e-4, decay 0.01, no clipping, no warm-up; 8 rows on each of 8 devices
    "ip-adapter": {
        "lr": {"*": 1e-4},
        "batch": 64,
        "weight_decay": 0.01,
        "clip": 0.0,
        "steps": 1_000_000,
    },
    # scripts/run_training.sh and the defaults of fastcomposer/utils.py; 16 rows on each of 8 devices
    "fastcomposer": {
        "lr": {"*": 1e-5},
        "batch": 128,
        "weight_decay": 0.01,
        "clip": 1.0,
        "steps": 150_000,
    },
    # not released: IP-Adapter's
    "instantid": {
        "lr": {"*": 1e-4},
        "batch": 64,
        "weight_decay": 0.01,
        "clip": 0.0,
        "steps": 1_000_000,
    },
}
SETTINGS: dict[str, dict[str, Any]] = {
    "ip-adapter": {
        "encoders.image.model": "clip.image.h14",
        "encoders.image.output": "pooled",
        "encoders.image.square": "centre",
        "attention.parallel_adapter.projector": "linear",
        "attention.parallel_adapter.tokens": 4,
        "attention.parallel_adapter.start": "text",
        "attention.parallel_adapter.strength": 1.0,
    },
    # pipeline_stable_diffusion_xl_instantid.py and infer.py; sizes at 1024 pixels
    "instantid": {
        "encoders.face.normalise": False,
        "encoders.face.align": True,
        "attention.parallel_adapter.projector": "perceiver",
        "attention.parallel_adapter.inner": 1280,
        "attention.parallel_adapter.heads": 20,
        "attention.parallel_adapter.head_width": 64,
        "attention.parallel_adapter.depth": 4,
        "attention.parallel_adapter.tokens": 16,
        "attention.parallel_adapter.strength": 0.8,
        "fusion.control_branch.drawing": "face",
        "fusion.control_branch.radius": 10 / 1024,
        "fusion.control_branch.stick": 4 / 1024,
        "fusion.control_branch.width": 1.0,
        "fusion.control_branch.strength": 0.8,
    },
    "fastcomposer": {
        "encoders.image.model": "clip.image",
        "encoders.image.slots": 4,
        "encoders.image.trained_layers": 2,
        "encoders.image.background": "random",
        "encoders.image.square": "black",
        "encoders.image.crop": True,
        "fusion.token_output.form": "postfuse",
        "fusion.token_output.hidden": None,
        "fusion.token_output.at": "last",
        "masks.masked_loss.probability": 0.5,
        "masks.masked_loss.draw": "step",
        "masks.masked_loss.spoken": True,
        "attention.localization_loss.weight": 1e-3,
        "attention.localization_loss.concepts": "mean",
        "attention.localization_loss.grids": "site",
        "attention.localization_loss.masks": "bilinear",
        "attention.localization_loss.tokens": "last",
    },
}
SAMPLING = {"ip-adapter": (50, 7.5), "instantid": (30, 5.0), "fastcomposer": (50, 5.0)}


@pytest.mark.parametrize("system", PHASES)
def test_the_training_s_numbers_stand_in_the_recipe(system: str) -> None:
    recipe = load_recipe(system)
    (phase,) = (p for p in recipe.phases if p.pretrain)
    published = PHASES[system]
    assert dict(phase.lr) == published["lr"]
    assert sum(phase.batch.values()) * phase.accumulate == published["batch"]
    assert (phase.weight_decay, phase.clip, phase.steps) == (
        published["weight_decay"],
        published["clip"],
        published["steps"],
    )
    assert (phase.optimizer, phase.schedule, phase.warmup) == ("adamw", "constant", 0)
    assert tuple(phase.betas) == (0.9, 0.999)
    assert (recipe.sample.steps, recipe.sample.scale) == SAMPLING[system]


@pytest.mark.parametrize("system", SETTINGS)
def test_the_method_s_settings_stand_in_the_recipe(system: str) -> None:
    uses = {use.name: use.technique.settings() for use in load_recipe(system).uses}
    for key, value in SETTINGS[system].items():
        use, _, setting = key.rpartition(".")
        assert uses[use][setting] == value, key


def test_fastcomposer_reads_plain_text_up_to_step_ten_of_fifty() -> None:
    """`i <= start_merge_step` in the authors' loop, at 10: steps 0 to 10 are plain."""
    uses = {use.name: use.technique.settings() for use in load_recipe("fastcomposer").uses}
    start = uses["fusion.token_output"]["start"]
    assert [i for i in range(50) if i / 50 < start] == list(range(11))


def test_fastcomposer_trains_fusion_unet_and_the_encoder_s_last_blocks_and_no_text_encoder() -> (
    None
):
    recipe = load_recipe("fastcomposer")
    (phase,) = (p for p in recipe.phases if p.pretrain)
    assert set(phase.train) == {"fusion.token_output/*", "encoders.image/*", "weights.full/*"}
    (full,) = (u.technique.settings() for u in recipe.uses if u.name == "weights.full")
    assert tuple(full["parts"]) == ("denoiser",)
    assert full["pattern"] == "*"
