"""LoRA files of other tools: what diffusers loads from them is what an imported artifact draws."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from pcs_core import export, open_backbone
from pcs_core.errors import InputError
from pcs_core.storage import load
from pcs_engine.strengths import part_strengths
from pcs_formats import lora_files
from pcs_formats.importing import import_file, inspect_file

CLOSE: Any = {"rtol": 1e-4, "atol": 1e-4}


def moved(module: Any) -> None:
    """Give every factor of a peft adapter other values than it starts with."""
    rng = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        noise = 0.1 * torch.randn(parameter.shape, generator=rng)
        if "lora_magnitude" in name:
            parameter.data *= 1 + noise
        elif "lora_" in name:
            parameter.data = noise


UNET = LoraConfig(
    r=4,
    lora_alpha=6,
    target_modules=["to_q", "to_v", "to_out.0", "conv1", "proj_in"],
    rank_pattern={"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 2},
    alpha_pattern={r"up_blocks.*.to_v": 1.5},
)
TEXT = LoraConfig(r=3, lora_alpha=4, target_modules=["q_proj", "fc1"])


DORA = LoraConfig(r=2, lora_alpha=3, target_modules=["to_q", "conv2", "proj_out"], use_dora=True)


def written(backbone: Any, folder: Path, **configurations: LoraConfig) -> None:
    """Let peft make and diffusers write a LoRA of these networks; it stays in them."""
    roots = {"unet": backbone.denoiser, "text_encoder": backbone.text_encoder}
    layers: dict[str, Any] = {}
    for name, configuration in configurations.items():
        inject_adapter_in_model(configuration, roots[name])
        roots[name].peft_config = {"default": configuration}
        moved(roots[name])
        layers[f"{name}_lora_layers"] = get_peft_model_state_dict(roots[name])
    metadata = _collate_lora_metadata({name: roots[name] for name in configurations})
    StableDiffusionPipeline.save_lora_weights(folder, **layers, **metadata)


def test_a_diffusers_lora_with_patterns_draws_as_peft_and_diffusers_do(
    opened: Any,
    release: Any,
    pipeline_of: Any,
    evaluate_bare: Any,
    evaluate_artifact: Any,
    run_pcs: Any,
    tmp_path: Path,
) -> None:
    trained = open_backbone(str(release))
    written(trained, tmp_path, unet=UNET, text_encoder=TEXT)
    by_peft = evaluate_bare(trained)
    backbone = opened("sd")
    out, file = tmp_path / "imported", tmp_path / "pytorch_lora_weights.safetensors"
    assert run_pcs("import", file, "--out", out, "--backbone", release) == 0
    settings = [use.technique.settings() for use in load(out).recipe.uses]
    assert {(s["part"], s["rank"], s["alpha"]) for s in settings} == {
        *(("denoiser", r, a) for r, a in ((4, 6.0), (2, 6.0), (4, 1.5))),
        ("text", 3, 4.0),
    }
    torch.testing.assert_close(evaluate_artifact(out, backbone), by_peft, **CLOSE)
    assert (by_peft - evaluate_artifact(None, backbone)).abs().max() > 1e-2


@pytest.mark.parametrize(
    "configuration", [pytest.param(UNET, marks=pytest.mark.slow), DORA], ids=["lora", "dora"]
)
def test_strengths_are_those_of_diffusers(
    configuration: LoraConfig,
    opened: Any,
    release: Any,
    pipeline_of: Any,
    evaluate_bare: Any,
    evaluate_artifact: Any,
    tmp_path: Path,
) -> None:
    written(open_backbone(str(release)), tmp_path, unet=configuration)
    backbone = opened("sd")
    artifact = import_file(tmp_path, backbone)
    pipe = pipeline_of(backbone)
    for strength in (1.0, 0.6):
        # an older diffusers asks for the name where HF_HUB_OFFLINE is set
        pipe.load_lora_weights(
            tmp_path, weight_name="pytorch_lora_weights.safetensors", adapter_name="theirs"
        )
        pipe.set_adapters("theirs", strength)
        theirs = evaluate_bare(backbone)
        pipe.unload_lora_weights()
        weights, _ = part_strengths({"lora": strength}, artifact.recipe.uses)
        torch.testing.assert_close(evaluate_artifact(artifact, backbone, weights), theirs, **CLOSE)


RELEASED = {
    "down_blocks.0.resnets.0.": "input_blocks.1.0.",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "down_blocks.1.attentions.0.": "input_blocks.4.1.",
    "down_blocks.1.attentions.1.": "input_blocks.5.1.",
    "down_blocks.2.attentions.0.": "input_blocks.7.1.",
    "down_blocks.2.attentions.1.": "input_blocks.8.1.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
    "up_blocks.0.attentions.0.": "output_blocks.0.1.",
    "up_blocks.0.attentions.1.": "output_blocks.1.1.",
    "up_blocks.0.attentions.2.": "output_blocks.2.1.",
    "up_blocks.0.resnets.2.": "output_blocks.2.0.",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
    "up_blocks.1.attentions.0.": "output_blocks.3.1.",
    "up_blocks.1.attentions.2.": "output_blocks.5.1.",
}
"""Where blocks of SDXL's UNet stand in the original release, written down from its configuration."""
INNER = {"conv1": "in_layers.2", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


def kohya_name(path: str) -> str | None:
    """Return what kohya calls a layer of SDXL's UNet, of those blocks that are written down here."""
    for ours, theirs in RELEASED.items():
        if path.startswith(ours):
            rest = path.removeprefix(ours)
            return "lora_unet_" + (theirs + INNER.get(rest, rest)).replace(".", "_")
    return None


def kohya_tensors(backbone: Any, *, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Write kohya's layout: projections, feed-forward layers and convolutions, and both text encoders."""
    rng, tensors = torch.Generator().manual_seed(1), dict[str, torch.Tensor]()

    def add(name: str, shape: tuple[int, ...], rank: int, alpha: float) -> None:
        ones = (1,) * (len(shape) - 2)
        down = 0.2 * torch.randn(rank, *shape[1:], generator=rng)
        up = 0.2 * torch.randn(shape[0], rank, *ones, generator=rng)
        tensors[f"{name}.lora_down.weight"] = down.to(dtype)
        tensors[f"{name}.lora_up.weight"] = up.to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=dtype)

    for path, module in backbone.denoiser.named_modules():
        name = kohya_name(path)
        if name is None or getattr(module, "weight", None) is None or module.weight.dim() < 2:
            continue
        if module.weight.dim() == 4:
            add(name, tuple(module.weight.shape), 2, 1.0)
        elif path.endswith(("to_q", "to_k", "to_out.0", "net.0.proj", "proj_in")):
            add(name, tuple(module.weight.shape), 4, 2.0)
    encoders = backbone.text_encoder
    for number, encoder in ((1, encoders.text_encoder), (2, encoders.text_encoder_2)):
        for path, module in encoder.named_modules():
            if path.endswith(("q_proj", "fc2")):
                whole = path if path.startswith("text_model.") else f"text_model.{path}"
                name = f"lora_te{number}_{whole.replace('.', '_')}"
                add(name, tuple(module.weight.shape), 4, 4.0)
    return tensors


@contextmanager
def merged_texts(backbone: Any, tensors: dict[str, torch.Tensor]) -> Iterator[None]:
    """Add alpha / rank B A to the text encoders' weights: diffusers' reader of such keys leaves some out."""
    before = {k: t.clone() for k, t in backbone.text_encoder.state_dict().items()}
    encoders = backbone.text_encoder
    for number, encoder in ((1, encoders.text_encoder), (2, encoders.text_encoder_2)):
        for path, module in encoder.named_modules():
            name = f"lora_te{number}_text_model_{path.removeprefix('text_model.')}".replace(
                ".", "_"
            )
            if f"{name}.alpha" in tensors:
                down, up, alpha = (
                    tensors[f"{name}.{part}"].float()
                    for part in ("lora_down.weight", "lora_up.weight", "alpha")
                )
                module.weight.data += alpha / len(down) * up @ down
    yield
    backbone.text_encoder.load_state_dict(before)


def test_a_kohya_file_for_sdxl_draws_as_diffusers_does(
    opened: Any, pipeline_of: Any, evaluate_bare: Any, evaluate_artifact: Any, tmp_path: Path
) -> None:
    backbone = opened("sdxl")
    file = tmp_path / "style.safetensors"
    tensors = kohya_tensors(backbone, dtype=torch.float16)
    tags = json.dumps({"10_dog": {"sks dog": 9, "grass": 2}})
    save_file(tensors, file, {"ss_network_module": "networks.lora", "ss_tag_frequency": tags})
    assert len({k.partition(".")[0] for k in tensors}) > 100
    artifact = import_file(file, backbone)
    ours, plain = (evaluate_artifact(a, backbone) for a in (artifact, None))
    of_unet = {k: t for k, t in tensors.items() if k.startswith("lora_unet_")}
    pipe = pipeline_of(backbone)
    pipe.load_lora_weights(of_unet)
    with merged_texts(backbone, tensors):
        theirs = evaluate_bare(backbone)
    pipe.unload_lora_weights()
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert (theirs - plain).abs().max() > 1e-2
    (loader,) = inspect_file(file, backbone)["loaders"]
    assert loader["matched"] == loader["keys"] == len(tensors)
    assert loader["base"] == "sdxl"
    assert loader["facts"]["trigger words"] == ["sks dog", "grass"]


@pytest.mark.slow
def test_what_kohya_s_export_wrote_comes_back_to_the_bit(opened: Any, tmp_path: Path) -> None:
    backbone = opened("sdxl")
    save_file(kohya_tensors(backbone), tmp_path / "a.safetensors")
    first = import_file(tmp_path / "a.safetensors", backbone)
    (written,) = export(first, tmp_path / "out", to="kohya", backbone=backbone)["files"]
    again = load_file(tmp_path / "out" / written)
    given = load_file(tmp_path / "a.safetensors")
    assert set(again) == set(given)
    assert all(torch.equal(again[k], given[k]) for k in given)
    second = import_file(tmp_path / "out" / written, backbone)
    assert {n: t.tolist() for n, t in second.tensors.items()} == {
        n: t.tolist() for n, t in first.tensors.items()
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("rename", "is of no layer of this network, the nearest is"),
        ("no-up", "lacks 'up'"),
        ("strange", "did you mean"),
        ("wide", "made for another base"),
    ],
)
def test_no_key_goes_unused(change: str, words: str, opened: Any, tmp_path: Path) -> None:
    backbone = opened("sdxl")
    tensors = kohya_tensors(backbone)
    layer = next(k for k in tensors if "middle_block" in k).partition(".")[0]
    down = f"{layer}.lora_down.weight"
    if change == "rename":
        for ending in ("lora_down.weight", "lora_up.weight", "alpha"):
            value = tensors.pop(f"{layer}.{ending}")
            tensors[f"{layer.replace('block_1', 'block_7')}.{ending}"] = value
    elif change == "no-up":
        del tensors[f"{layer}.lora_up.weight"]
    elif change == "strange":
        tensors[f"{layer}.lora_sideways.weight"] = torch.ones(2)
    else:
        tensors[down] = torch.ones(tensors[down].shape[0], 7)
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match=words) as refused:
        import_file(tmp_path / "bad.safetensors", backbone)
    assert layer.rpartition("_")[0][:30] in str(refused.value)


def test_the_command_refuses_in_one_line(run_pcs: Any, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "odd.safetensors"
    save_file({"lora_unet_conv_inn.lora_down.weight": torch.ones(2, 4, 3, 3)}, file)
    assert run_pcs("import", file, "--out", tmp_path / "o", "--backbone", "tiny") == 2
    said = capsys.readouterr().err
    assert "'lora_unet_conv_inn.lora_down.weight' is of no layer" in said
    assert "the nearest is 'lora_unet_conv_in.lora_down.weight'" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_of_many_unknown_layers_a_few_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is compared with every name of the network: a file of another base has hundreds."""
    layers = {f"lora_unet_conv_in{n}.lora_down.weight": torch.ones(2, 4, 3, 3) for n in range(40)}
    save_file(layers, tmp_path / "other.safetensors")
    compared: list[str] = []
    nearest = lora_files.nearest_name
    monkeypatch.setattr(
        lora_files,
        "nearest_name",
        lambda name, names: compared.append(name) or nearest(name, names),
    )
    with pytest.raises(InputError, match=r"the nearest is .*and 37 more"):
        import_file(tmp_path / "other.safetensors", "tiny")
    assert len(compared) == 10
