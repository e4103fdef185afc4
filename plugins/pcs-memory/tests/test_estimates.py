"""What is estimated without weights is what torch's allocator gives out in the real run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import fit, load_recipe, open_backbone, sample
from pcs_diffusers.skeletons import SKELETONS
from pcs_diffusers.tiny import write_tiny
from pcs_memory.running import TOKEN, Run, shortened

WITHIN = 0.1
"""Share of what is measured, weights left out, by which an estimate may be wrong."""
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"precision": "bf16", "checkpointing": True},
)


Measure = Callable[[Callable[[], Any]], int]


def compare(
    measured: Measure,
    system: str,
    name: str,
    opened: Callable[[], Any],
    dtype: torch.dtype | None = None,
    **setting: Any,
) -> None:
    """Compare a fit of two pictures and a drawing of two on backbone ``name`` with what is estimated."""
    recipe = load_recipe(system, backbone=name)
    run = Run(recipe, name, dtype=dtype)
    estimated = run.fit(pictures=2, **setting)
    drawing = run.draw(2)
    backbone = opened()
    weights = {
        part: sum(t.numel() * t.element_size() for t in (*m.parameters(), *m.buffers()))
        for part, m in backbone.parts.items()
    }
    assert run.weights == weights
    short = load_recipe(recipe, overrides=shortened(recipe))
    subject = run._subject(2)
    artifacts: list[Any] = []
    taken = measured(lambda: artifacts.extend(fit(short, subject, backbone, **setting)))
    drawn = measured(lambda: sample(artifacts[0], backbone, f"a photo of {TOKEN}", count=2))
    stored = sum(t.numel() * t.element_size() for t in artifacts[0].tensors.values())
    whole = sum(weights.values())
    assert estimated.peak - whole == pytest.approx(taken, rel=WITHIN)
    assert drawing.peak - whole == pytest.approx(drawn + stored, rel=WITHIN)


@pytest.mark.rotated
@pytest.mark.parametrize("setting", SETTINGS, ids=["fp32", "bf16-checkpointing"])
@pytest.mark.parametrize("backbone", ["tiny", "tiny-sdxl", "tiny-sd3", "tiny-flux"])
def test_a_small_network_of_each_family(
    backbone: str, setting: dict[str, Any], measured: Measure
) -> None:
    compare(measured, "lora-dreambooth", backbone, lambda: open_backbone(backbone), **setting)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=["fp32", "bf16-checkpointing"])
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_a_skeleton_of_each_release_from_its_configurations(
    family: str,
    setting: dict[str, Any],
    tmp_path: Path,
    measured: Measure,
    without_weights: Callable[[Any, Path], Path],
) -> None:
    skeleton = SKELETONS[family]()
    folder = without_weights(skeleton, tmp_path / family)
    assert not list(folder.rglob("*.safetensors"))
    compare(measured, "lora-dreambooth", str(folder), lambda: skeleton, **setting)


@pytest.mark.rotated
@pytest.mark.parametrize("system", ["textual-inversion", "dreambooth", "custom-diffusion"])
def test_systems_that_train_words_or_whole_networks(system: str, measured: Measure) -> None:
    compare(measured, system, "tiny", lambda: open_backbone("tiny"))


def test_what_trains_and_its_optimizer_are_counted_exactly() -> None:
    run = Run(load_recipe("lora-dreambooth", backbone="tiny"), "tiny")
    taken = run.fit(pictures=2)
    assert run.artifact is not None
    numbers = sum(tensor.numel() for tensor in run.artifact.tensors.values())
    assert taken.trained == taken.gradients == 4 * numbers
    # Adam's two moments, and one count of steps for each tensor
    assert taken.optimizer == 8 * numbers + 4 * len(run.artifact.tensors)


def test_more_pictures_take_their_latents_and_pixels_and_no_more_of_a_step() -> None:
    def kept(pictures: int) -> tuple[int, int]:
        taken = Run(load_recipe("lora-dreambooth", backbone="tiny"), "tiny").fit(pictures=pictures)
        return taken.kept, taken.step

    (few, step), (many, same) = kept(2), kept(6)
    backbone = open_backbone("tiny")
    pixels = 3 * backbone.card.size[0] * backbone.card.size[1]
    latents = torch.Size(backbone.latent_shape).numel()
    assert many - few == pytest.approx(4 * 4 * (pixels + 2 * latents), rel=0.05)
    assert same == pytest.approx(step, rel=0.02)


def test_on_a_card_originals_wait_elsewhere() -> None:
    recipe = load_recipe("lora-dreambooth", backbone="tiny")
    here = Run(recipe, "tiny").fit(pictures=2, precision="bf16")
    card = Run(recipe, "tiny", aside=True).fit(pictures=2, precision="bf16")
    assert card.waiting == here.waiting > 0
    assert card.weights == here.weights
    step = "a step"
    assert here.peaks[step] - card.peaks[step] == card.waiting


@pytest.mark.rotated
def test_after_a_fit_in_low_precision_a_drawing_has_the_weights_in_full() -> None:
    recipe = load_recipe("lora-dreambooth", backbone="tiny")
    low, exact = (Run(recipe, "tiny", aside=aside) for aside in (True, False))
    low.fit(pictures=2, precision="bf16")
    exact.fit(pictures=2)
    assert low.draw().peak == pytest.approx(exact.draw().peak, rel=0.01)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="this processor has no bfloat16: torch convolves unfolded copies, which no card holds",
)
def test_weights_that_are_stored_in_two_bytes(measured: Measure, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    setting = {"precision": "bf16", "checkpointing": True}
    compare(
        *(measured, "lora-dreambooth", str(folder)),
        lambda: open_backbone(folder, quantize="bf16"),
        torch.bfloat16,
        **setting,
    )


def test_offloading_leaves_out_what_is_not_asked_and_keeps_what_has_gradients() -> None:
    for system, graded in (
        ("lora-dreambooth", {"denoiser"}),
        ("textual-inversion", {"denoiser", "text"}),
    ):
        taken = Run(load_recipe(system, backbone="tiny"), "tiny", aside=True).fit(pictures=2)
        assert taken.graded == graded
        less, weights = taken.offloaded().peaks, taken.weights
        idle = sum(size for name, size in weights.items() if name not in graded)
        assert taken.peaks["a step"] - less["a step"] == idle
        encoding = "pictures are encoded"
        assert taken.peaks[encoding] - less[encoding] == weights["denoiser"] + weights["text"]
        assert "weights are opened" not in less
        assert taken.offloaded().step == taken.step > 0
