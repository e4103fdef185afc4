"""LoRAs of few-step distillations: drawn as diffusers draws them, with the numbers that their names say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from pcs_core import sample
from pcs_core.storage import load
from pcs_diffusers.few_steps import named_after_few_steps, tell_fit
from pcs_diffusers.skeletons import sd15, sdxl
from pcs_diffusers.tiny import tiny, tiny_sd3, tiny_sdxl
from pcs_diffusers.tiny_flux import tiny_flux
from pcs_engine.randomness import generator
from pcs_formats.importing import import_file, inspect_file

MOVED = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
MOVED += ["conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"]
MOVED += ["time_emb_proj"]
"""Layers that LCM-LoRA's training moves."""
ALPHA = 6.0


def lcm_file(unet: Any, file: Path) -> Path:
    """Let peft make an update of all those layers, and write it as LCM-LoRA's training does: kohya's way."""
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=int(ALPHA), target_modules=MOVED), unet)
    rng = torch.Generator().manual_seed(2)
    tensors = {}
    for key, value in get_peft_model_state_dict(unet).items():
        layer, _, ending = key.rpartition(".lora_")
        word = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[ending]
        name = "lora_unet_" + layer.replace(".", "_")
        tensors[f"{name}.{word}"] = 0.1 * torch.randn(value.shape, generator=rng)
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


@pytest.mark.parametrize("family", ["sd", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_an_lcm_lora_draws_as_diffusers_does(family: str, pipeline_of: Any, tmp_path: Path) -> None:
    make = {"sd": sd15, "sdxl": sdxl}[family]
    # the release's file is called as all are: its folder says what it is
    file = lcm_file(
        make().denoiser, tmp_path / "lcm-lora-sdv1-5" / "pytorch_lora_weights.safetensors"
    )
    backbone: Any = make()
    artifact = import_file(file, backbone)
    numbers = artifact.recipe.sample
    assert (numbers.steps, numbers.scale, numbers.scheduler) == (4, 1.0, "lcm")
    ours = sample(artifact, backbone, "a red toy", seed=5)
    plain = sample(None, backbone, "a red toy", seed=5, steps=4, scale=1.0, scheduler="lcm")
    assert (ours - plain).abs().max() > 1e-2
    pipe = pipeline_of(make())
    pipe.load_lora_weights(file.parent, weight_name=file.name)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    rng = generator(5, "noise")
    side = backbone.card.size[0]
    theirs = pipe(
        "a red toy",
        latents=torch.randn(1, *backbone.latent_shape, generator=rng),
        generator=rng,  # what the scheduler adds comes after the first noise
        num_inference_steps=4,
        guidance_scale=1.0,
        height=side,
        width=side,
        output_type="pt",
    ).images
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def time_lora(backbone: Any, file: Path, metadata: dict[str, str] | None = None) -> Path:
    """Write one update of a layer that tells the time, or of the first attention where there is none."""
    unet = backbone.denoiser
    paths = [n for n, _ in unet.named_modules() if n.endswith(("time_emb_proj", "attn.to_q"))]
    out, into = unet.get_submodule(paths[0]).weight.shape
    name = f"{'unet' if hasattr(unet, 'up_blocks') else 'transformer'}.{paths[0]}"
    tensors = {
        f"{name}.lora_A.weight": torch.ones(2, into),
        f"{name}.lora_B.weight": torch.ones(out, 2),
    }
    save_file(tensors, file, metadata)
    return file


@pytest.mark.parametrize(
    ("make", "name", "expected"),
    [
        (tiny, "Hyper-SD15-8steps-lora", (8, 1.0, "ddim-trailing")),
        (tiny_sdxl, "Hyper-SDXL-12steps-CFG-lora", (12, 5.0, "ddim-trailing")),
        (tiny_sdxl, "sdxl_lightning_4step_lora", (4, 1.0, "euler-trailing")),
        (tiny_sdxl, "sdxl_lightning_2step_lora", (2, 1.0, "euler-trailing")),
        (tiny, "lcm_sd15", (4, 1.0, "lcm")),
        (tiny_flux, "Hyper-FLUX.1-dev-16steps-lora", (16, 1.0, None)),
        (tiny_sd3, "Hyper-SD3-8steps-CFG-lora", (8, 5.0, None)),
        (tiny, "welcmed-style", None),
        (tiny, "enlightening-3d", None),
    ],
)
def test_names_say_how_a_file_is_drawn(
    make: Any, name: str, expected: tuple[int, float, str | None] | None, tmp_path: Path
) -> None:
    backbone = make()
    artifact = import_file(time_lora(backbone, tmp_path / f"{name}.safetensors"), backbone)
    numbers, (usual, notes) = artifact.recipe.sample, usual_and_notes(make, tmp_path, artifact)
    steps, scale, scheduler = expected or (usual.steps, usual.scale, usual.scheduler)
    scheduler = usual.scheduler if scheduler is None else scheduler
    assert (numbers.steps, numbers.scale, numbers.scheduler) == (steps, scale, scheduler)
    assert ("as released" in notes) == (expected is not None)
    assert ("--strength lora=0.125" in notes) == (make in (tiny_flux, tiny_sd3))
    assert ("nothing in a file says so" in notes) == (expected is None)


def usual_and_notes(make: Any, folder: Path, artifact: Any) -> tuple[Any, str]:
    """Return the numbers of a file that says nothing, and what an artifact's import said."""
    backbone = make()
    plain = import_file(time_lora(backbone, folder / "plain.safetensors"), backbone)
    return plain.recipe.sample, " ".join(artifact.extra["imported"].get("notes", ()))


def test_metadata_and_the_hubs_cache_say_it_too(tmp_path: Path) -> None:
    backbone = tiny()
    said = time_lora(backbone, tmp_path / "a.safetensors", {"modelspec.title": "My LCM, 4 steps"})
    (loader,) = inspect_file(said)["loaders"]
    assert loader["facts"]["few steps"] == "LCM-LoRA: steps 4, scale 1.0, scheduler lcm"
    cached = tmp_path / "models--latent-consistency--lcm-lora-sdv1-5" / "snapshots" / "0123abcd"
    cached.mkdir(parents=True)
    file = time_lora(backbone, cached / "pytorch_lora_weights.safetensors")
    assert import_file(file, backbone).recipe.sample.scheduler == "lcm"
    one = time_lora(backbone, tmp_path / "Hyper-SD15-1step-lora.safetensors")
    notes = import_file(one, backbone).extra["imported"]["notes"]
    assert any("take one of 2 steps or more" in note for note in notes)


def test_commands_draw_it_with_its_numbers_and_a_subject_added(
    run_pcs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = tiny()
    file = time_lora(backbone, tmp_path / "sdxl_lightning_2step_lora.safetensors")
    style = time_lora(backbone, tmp_path / "style.safetensors")
    for path, out in ((file, "few"), (style, "style")):
        assert run_pcs("import", path, "--backbone", "tiny", "--out", tmp_path / out) == 0
    assert "SDXL-Lightning: it is drawn with steps 2" in capsys.readouterr().err
    assert load(tmp_path / "few").recipe.sample.steps == 2
    words = ("sample", tmp_path / "few", "a red toy", "-n", 1)
    assert (
        run_pcs(
            *words, "--add", tmp_path / "style", "--out", tmp_path / "out", "--dry-run", "--json"
        )
        == 0
    )
    said = capsys.readouterr().out
    assert '"steps": 2' in said
    assert '"euler-trailing"' in said


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("stabilityai/stable-diffusion-3.5-large-turbo", ""), "turbo"),
        (("ByteDance/SDXL-Lightning", ""), "Lightning"),
        (("base", "/models/Hyper-SDXL-1step-Unet.safetensors"), "Hyper-SDXL"),
        (("sd15", "/turbo/models/sd15"), ""),
        (("turbofan-photos", ""), ""),
        (("tiny", ""), ""),
    ],
)
def test_a_base_is_told_by_its_name_where_its_configuration_does_not(
    names: tuple[str, ...], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert named_after_few_steps(*names) == word
    if word:
        tell_fit.cache_clear()
        tell_fit(names[0], word)
        assert f"its name says {word!r}; its configuration does not" in caplog.text
