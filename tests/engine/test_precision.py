"""Fits in low precision, and with activations computed twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import AttnState, Fusion, Personalization, Phase, Recipe
from pcs_core.errors import CapabilityError, InputError
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine import Progress, fit
from pcs_engine import checkpoints as checkpoints_module
from pcs_engine import precision as precision_module
from pcs_engine import progress as progress_module
from pcs_engine.precision import Precision
from pcs_testing import Snapshot, make_recipe, make_subject
from pcs_testing.probe import Probe

FIRST_SCALE = 2.0**24
"""A multiple of the loss at which the gradients of a few steps overflow."""

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Types(Technique):
    """Notes the types in a step: of frozen weights, of what trains, of the output and of the losses."""

    id = "test.types"

    @hookimpl
    def regularize(self, run: Any, step: Any) -> None:
        SEEN["output"] = step.output.dtype
        SEEN["error"] = step.error.dtype
        unet = run.backbone.parts["denoiser"]
        SEEN["frozen"] = unet.conv_in.weight.dtype
        SEEN["norm"] = unet.conv_norm_out.weight.dtype
        SEEN["autoencoder"] = next(run.backbone.parts["vae"].parameters()).dtype
        SEEN["step"] = step


SEEN: dict[str, Any] = {}


def recipe_of(*more: Technique, steps: int = 3, **phase: Any) -> Recipe:
    """A word, a LoRA and an edit of the attention, all of them training."""
    known = catalogue()
    token = known.get("techniques", "tokens.learnable").from_settings({})
    lora = known.get("techniques", "weights.lora").from_settings({"rank": 2})
    settings = {"lr": {"*": 1e-2}, "batch": {"subject": 2}, "losses": ("core.*",), **phase}
    return make_recipe([token, lora, Probe(), *more], Phase("p", steps, **settings))


def two() -> list[Any]:
    return [make_subject(n, token=f"<{n}>", seed=i) for i, n in enumerate(("ann", "bob"))]


def close(one: Personalization, other: Personalization, bound: float) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name, value in one.tensors.items():
        assert value.dtype == other.tensors[name].dtype == torch.float32
        distance = (value - other.tensors[name]).norm() / (other.tensors[name].norm() + 1e-8)
        assert distance <= bound, (name, float(distance))


def same(one: Personalization, other: Personalization) -> None:
    assert one.losses == other.losses
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


@pytest.mark.parametrize("name", LOW)
def test_frozen_weights_are_low_and_the_rest_is_not(backbone: Backbone, name: str) -> None:
    before = Snapshot(backbone)
    pointers = {p.data_ptr() for p in backbone.parts["denoiser"].parameters()}
    artifacts = fit(recipe_of(Types()), two(), backbone, precision=name)
    step = SEEN.pop("step")
    assert SEEN["frozen"] == SEEN["output"] == LOW[name]
    assert SEEN["norm"] == SEEN["error"] == SEEN["autoencoder"] == torch.float32
    assert step.batch.latents.dtype == torch.float32
    exact = fit(recipe_of(), two(), backbone)
    for low, full in zip(artifacts, exact, strict=True):
        assert low.losses["core.denoise"] == pytest.approx(full.losses["core.denoise"], rel=0.02)
        assert low.losses != full.losses
        assert low.extra["precision"] == name
        assert "precision" not in full.extra
        assert all(t.dtype == torch.float32 for t in low.tensors.values())
    assert backbone.dtype == torch.float32
    assert {p.data_ptr() for p in backbone.parts["denoiser"].parameters()} == pointers
    for part, tensors in before.tensors.items():
        for key, tensor in backbone.parts[part].state_dict().items():
            assert torch.equal(tensor, tensors[key]), key


def test_a_fit_that_fails_leaves_the_weights_whole(backbone: Backbone) -> None:
    class Failing(Technique):
        id = "test.failing"

        @hookimpl
        def regularize(self, step: Any) -> None:
            raise InputError("no")

    before = Snapshot(backbone)
    with pytest.raises(InputError):
        fit(recipe_of(Failing()), make_subject(), backbone, precision="bf16")
    for part, tensors in before.tensors.items():
        for key, tensor in backbone.parts[part].state_dict().items():
            assert torch.equal(tensor, tensors[key]), key


def test_the_delta_of_full_tuning_is_taken_from_the_true_weights(backbone: Backbone) -> None:
    full = catalogue().get("techniques", "weights.full").from_settings({})
    recipe = make_recipe([full], Phase("p", 1, lr={"*": 1e-12}))
    (artifact,) = fit(recipe, make_subject(), backbone, precision="bf16")
    assert max(float(t.abs().max()) for t in artifact.tensors.values()) < 1e-6


def test_what_is_drawn_during_a_fit_is_drawn_in_full(backbone: Backbone) -> None:
    drawn = []

    class Drawing(Technique):
        id = "test.drawing"

        @hookimpl
        def regularize(self, run: Any, step: Any) -> None:
            drawn.append(run.draw(["a dog"], seed=1, steps=2))

    for name in ("fp32", "bf16"):
        fit(recipe_of(Drawing(), steps=1), make_subject(), backbone, precision=name)
    assert torch.equal(*drawn)


def test_a_checkpoint_that_is_looked_at_draws_in_full(backbone: Backbone) -> None:
    types = []

    def keep(artifacts: Any) -> list[bool]:
        types.append((backbone.dtype, backbone.parts["denoiser"].conv_in.weight.dtype))
        return [False] * len(artifacts)

    fit(recipe_of(), make_subject(), backbone, precision="bf16", keep=keep, checkpoints=3)
    assert types == [(torch.float32, torch.float32)] * 3


def test_a_call_without_gradients_takes_none_from_the_next(backbone: Backbone) -> None:
    """autocast's cache would hand the second call what the first cast without gradients.

    Newer versions of torch cast again: on those the cache itself is looked at.
    """
    caching = []

    class Looking(Technique):
        id = "test.looking"

        @hookimpl
        def regularize(self, step: Any) -> None:
            caching.append(torch.is_autocast_cache_enabled())
            with torch.no_grad():
                step.evaluate(step.noisy, step.level, step.cond)

    lora = catalogue().get("techniques", "weights.lora").from_settings({"rank": 2})
    phase = Phase("p", 2, lr={"*": 1e-2}, losses=("core.*",))
    plain = fit(make_recipe([lora], phase), make_subject(), backbone, precision="bf16")
    looking = fit(make_recipe([Looking(), lora], phase), make_subject(), backbone, precision="bf16")
    same(plain[0], looking[0])
    assert caching == [False] * 2


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_checkpointing_changes_nothing(backbone: Backbone, name: str) -> None:
    calls = 0
    unet: Any = backbone.parts["denoiser"]

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = unet.get_submodule("mid_block.resnets.1").register_forward_pre_hook(count)
    plain = fit(recipe_of(steps=4), two(), backbone, precision=name)
    once, calls = calls, 0
    again = fit(recipe_of(steps=4), two(), backbone, precision=name, checkpointing=True)
    handle.remove()
    assert calls > once
    for one, other in zip(plain, again, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-5)
        close(one, other, 2e-3)
        assert other.extra["gradient_checkpointing"] is True
        assert "gradient_checkpointing" not in one.extra


def test_an_unknown_precision(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="unknown precision 'half': fp32, bf16, fp16"):
        fit(recipe_of(), make_subject(), backbone, precision="half")


def test_a_precision_that_the_device_has_no_products_in(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    with pytest.raises(CapabilityError, match="precision 'fp16'.*'cpu'.*not implemented.*bf16"):
        Precision("fp16", backbone)


class Interrupt:
    """Raises KeyboardInterrupt at the first report after ``done`` steps."""

    def __init__(self, done: int) -> None:
        self.done = done

    def __call__(self, progress: Progress) -> None:
        if progress.done >= self.done:
            raise KeyboardInterrupt


@pytest.mark.rotated
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_resume_is_exact(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "REPORT_EVERY", 3)
    recipe = recipe_of(steps=8, ema=0.9, clip=0.1, schedule="cosine", warmup=2, accumulate=2)
    options: dict[str, Any] = {"precision": name, "checkpointing": True}
    whole = fit(recipe, two(), backbone, **options)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, two(), backbone, work=tmp_path, watch=[Interrupt(3)], **options)
    with pytest.raises(InputError, match="another precision"):
        fit(recipe, two(), backbone, work=tmp_path, resume=True)
    resumed = fit(recipe, two(), backbone, work=tmp_path, resume=True, **options)
    for one, other in zip(whole, resumed, strict=True):
        same(one, other)


def begin_scaled(monkeypatch: pytest.MonkeyPatch, scale: float) -> list[Precision]:
    """Let fits in fp16 begin with gradients of ``scale`` times the loss; return their precisions."""
    made: list[Precision] = []
    init = precision_module.Precision.__init__

    def noted(self: Precision, *args: Any) -> None:
        init(self, *args)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        made.append(self)

    monkeypatch.setattr(precision_module.Precision, "__init__", noted)
    return made


def lora_alone(steps: int) -> Recipe:
    lora = catalogue().get("techniques", "weights.lora").from_settings({"rank": 2})
    return make_recipe([lora], Phase("p", steps, lr={"*": 1e-2}))


def test_a_gradient_that_overflows_is_skipped_and_the_scale_halved(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose gradients overflow changes nothing: not even the moments of the optimizer."""
    made = begin_scaled(monkeypatch, 2.0**40)
    (artifact,) = fit(lora_alone(3), make_subject(), backbone, precision="fp16")
    assert made[0].scaler.get_scale() == 2.0**37
    assert all(not t.any() for n, t in artifact.tensors.items() if n.endswith("up"))


def test_a_resumed_fit_goes_on_with_the_scale_that_it_had(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first scale again it would skip steps again."""
    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "REPORT_EVERY", 1)
    made = begin_scaled(monkeypatch, FIRST_SCALE)
    options: dict[str, Any] = {"precision": "fp16", "work": tmp_path}
    (whole,) = fit(lora_alone(8), make_subject(), backbone, precision="fp16")
    scale = made[0].scaler.get_scale()
    assert FIRST_SCALE / 2**5 <= scale < FIRST_SCALE  # some steps were skipped, not all
    with pytest.raises(KeyboardInterrupt):
        fit(lora_alone(8), make_subject(), backbone, watch=[Interrupt(6)], **options)
    (resumed,) = fit(lora_alone(8), make_subject(), backbone, resume=True, **options)
    assert made[-1].scaler.get_scale() == scale
    same(whole, resumed)


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_scaled_gradients_are_clipped_at_their_own_size(backbone: Backbone, clip: float) -> None:
    """Plain gradient descent, in which a gradient that stayed scaled would move 65536 times as far."""
    lora = catalogue().get("techniques", "weights.lora").from_settings({"rank": 2})
    phase = Phase("p", 2, lr={"*": 1e-1}, optimizer="sgd", clip=clip)
    recipe = make_recipe([lora], phase)
    (exact,) = fit(recipe, make_subject(), backbone)
    (scaled,) = fit(recipe, make_subject(), backbone, precision="fp16")
    close(scaled, exact, 0.05)


def test_edits_of_attention_that_see_maps(backbone: Backbone) -> None:
    """Stages that compute in another order than the network still agree with its types."""
    from pcs_core.data import AttnEdit

    class Maps(AttnEdit):
        def probs(self, state: AttnState, cond: Any) -> AttnState:
            assert state.probs is not None
            state.probs = state.probs.float() * torch.ones(())
            return state

    class Seeing(Technique):
        id = "test.seeing"

        @hookimpl
        def fuse(self, run: Any) -> Fusion:
            return Fusion(edits=tuple(Maps(site) for site in run.sites("cross")))

    recipe = recipe_of(Seeing())
    low = fit(recipe, two(), backbone, precision="bf16", checkpointing=True)
    full = fit(replace(recipe), two(), backbone)
    for one, other in zip(low, full, strict=True):
        assert one.losses["core.denoise"] == pytest.approx(other.losses["core.denoise"], rel=0.02)
