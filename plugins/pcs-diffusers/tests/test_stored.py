"""Frozen weights in few bits: what runs on a CPU runs, fits and draws; what does not is refused by name."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks import apply_layerwise_casting

from pcs_core import fit, load_recipe, open_backbone, sample
from pcs_core.data import Concept, Personalization, Subject
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.few_bit_layers import keep_in_few_bits
from pcs_diffusers.stored import STORAGES, Storage, reading_options

EXACT = {"bf16": 0.03, "fp16": 0.01, "int8": 0.04, "fp8": 0.2}
"""Storage -> the largest difference of an output or gradient from fp32's, as a share of its norm."""


def subject() -> Subject:
    rng = torch.Generator().manual_seed(3)
    return Subject(
        name="thing",
        images=tuple(torch.rand(3, 32, 32, generator=rng) for _ in range(2)),
        concepts=(Concept(name="thing", token="<thing>", noun="dog"),),
    )


def fitted(folder: Path, quantize: str, precision: str, steps: int = 6) -> Personalization:
    recipe = load_recipe("lora-dreambooth", backbone=str(folder), overrides=[f"tune.steps={steps}"])
    backbone = open_backbone(folder, quantize=quantize)
    return fit(recipe, subject(), backbone, precision=precision)[0]


def ask(backbone: Any) -> tuple[torch.Tensor, ...]:
    """Return what the denoiser says, and its gradients by latents and text."""
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 16, 16, generator=rng).requires_grad_()
    text = torch.randn(1, 24, 32, generator=rng).requires_grad_()
    given = latents.to(backbone.dtype), torch.tensor([10]), text.to(backbone.dtype)
    output = backbone.denoiser(*given).sample.float()
    output.backward(torch.ones_like(output))
    assert latents.grad is not None
    assert text.grad is not None
    return output.detach(), latents.grad, text.grad


@pytest.mark.parametrize("quantize", EXACT)
def test_outputs_and_gradients_are_close_to_those_in_full(whole: Path, quantize: str) -> None:
    needs(quantize)
    exact = ask(open_backbone(whole))
    backbone: Any = open_backbone(whole, quantize=quantize)
    assert backbone.stored_as == quantize
    assert backbone.dtype == STORAGES[quantize].dtype
    for ours, full in zip(ask(backbone), exact, strict=True):
        off = float((ours - full).norm() / full.norm())
        assert 0 < off < EXACT[quantize]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Linear(6, 4), (3, 6)),
        (torch.nn.Linear(6, 4, bias=False), (2, 3, 6)),
        (torch.nn.Conv1d(4, 6, 3, padding=1), (2, 4, 7)),
        (torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 7, 8)),
        (torch.nn.Conv2d(4, 4, 3, dilation=2), (2, 4, 9, 9)),
        (torch.nn.Conv3d(4, 2, 3, padding=1, bias=False), (1, 4, 3, 5, 5)),
    ],
    ids=str,
)
def test_a_layer_in_float8_keeps_no_other_copy_for_backward(
    layer: torch.nn.Module, shape: tuple[int, ...]
) -> None:
    """Its values and gradients are those of a layer that holds the rounded weights in bfloat16."""
    exact = copy.deepcopy(layer).to(torch.float8_e4m3fn).to(torch.bfloat16).requires_grad_(False)
    stored = copy.deepcopy(layer).requires_grad_(False)
    apply_layerwise_casting(stored, torch.float8_e4m3fn, torch.bfloat16, skip_modules_pattern=None)
    keep_in_few_bits(stored)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        output = stored(ours)
    output.float().square().sum().backward()
    exact(theirs).float().square().sum().backward()
    torch.testing.assert_close(output, exact(x))
    torch.testing.assert_close(ours.grad, theirs.grad)
    weights = [t for t in kept if t.numel() == stored.weight.numel()]
    assert [t.dtype for t in weights] == [torch.float8_e4m3fn]


def needs(quantize: str) -> None:
    if STORAGES[quantize].needs:
        pytest.importorskip(STORAGES[quantize].needs)


@pytest.mark.parametrize("quantize", ["fp8", "int8"])
def test_matrices_take_a_byte_a_number(whole: Path, quantize: str) -> None:
    needs(quantize)
    backbone: Any = open_backbone(whole, quantize=quantize)
    attention = backbone.denoiser.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    weight = attention.to_q.weight
    inner = weight if quantize == "fp8" else weight.qdata
    assert inner.element_size() == 1
    assert inner.numel() == attention.inner_dim * attention.query_dim


@pytest.mark.parametrize("quantize", ["bf16", "fp8", "int8"])
def test_a_lora_fits_and_draws(
    whole: Path, quantize: str, caplog: pytest.LogCaptureFixture
) -> None:
    needs(quantize)
    exact = fitted(whole, "", "fp32")
    artifact = fitted(whole, quantize, "bf16")
    assert artifact.extra["weights"] == quantize
    assert "weights" not in exact.extra
    assert artifact.backbone.hash == exact.backbone.hash
    up = [name for name in exact.tensors if name.endswith("/B")]
    there = torch.cat([exact.tensors[name].flatten() for name in up])
    ours = torch.cat([artifact.tensors[name].flatten() for name in up])
    assert torch.cosine_similarity(there, ours, dim=0) > 0.8
    prompt = "a photo of <thing>"
    with caplog.at_level(logging.WARNING, "pcs.backbones"):
        same = sample(artifact, open_backbone(whole, quantize=quantize), prompt, steps=2)
        assert "stored" not in caplog.text
        full = sample(artifact, open_backbone(whole), prompt, steps=2)
    assert f"fitted on weights stored as {quantize}, and is drawn with weights stored in full" in (
        caplog.text
    )
    assert 0 < (same - full).abs().mean() < 0.05


@pytest.mark.parametrize("quantize", ["fp8", "int8"])
@pytest.mark.parametrize("system", ["perfusion", "svdiff", "dreambooth"])
def test_what_rewrites_weights_is_refused_by_name(whole: Path, quantize: str, system: str) -> None:
    needs(quantize)
    few = [
        f"{use.name}.{number}=1"
        for use in load_recipe(system, backbone=str(whole)).uses
        if use.technique.id == "regularizers.prior_preservation"
        for number in ("count", "steps")
    ]
    recipe = load_recipe(system, backbone=str(whole), overrides=few)
    with pytest.raises(CapabilityError, match="stored in few bits: open the backbone without"):
        fit(recipe, subject(), open_backbone(whole, quantize=quantize))


@pytest.mark.parametrize("quantize", ["fp8", "int8"])
def test_what_is_recomputed_is_the_same(whole: Path, quantize: str) -> None:
    needs(quantize)
    recipe = load_recipe("lora-dreambooth", backbone=str(whole), overrides=["tune.steps=3"])
    backbone = open_backbone(whole, quantize=quantize)
    one, other = (
        fit(recipe, subject(), backbone, checkpointing=again)[0] for again in (True, False)
    )
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in other.tensors)


@pytest.mark.parametrize("quantize", ["bf16", "int8"])
def test_others_are_recomputed_to_the_same_gradients(whole: Path, quantize: str) -> None:
    needs(quantize)
    recipe = load_recipe("lora-dreambooth", backbone=str(whole), overrides=["tune.steps=2"])

    def run(checkpointing: bool) -> Personalization:
        backbone = open_backbone(whole, quantize=quantize)
        return fit(recipe, subject(), backbone, precision="bf16", checkpointing=checkpointing)[0]

    plain, again = run(False), run(True)
    assert all(torch.equal(t, again.tensors[n]) for n, t in plain.tensors.items())


def test_what_is_not_there_is_refused(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="'int7': no such storage of weights, did you mean 'int8'"):
        open_backbone(whole, quantize="int7")
    with pytest.raises(
        CapabilityError, match="'nf4': bitsandbytes stores weights so on a GPU alone"
    ):
        open_backbone(whole, quantize="nf4")
    with pytest.raises(CapabilityError, match="'tiny' is built as it is: leave out quantize"):
        open_backbone("tiny", quantize="int8")
    monkeypatch.setattr("pcs_diffusers.stored.find_spec", lambda _: None)
    with pytest.raises(
        CapabilityError, match=r'needs torchao.*pip install "pcs-diffusers\[torchao\]"'
    ):
        open_backbone(whole, quantize="int8")


def test_a_single_file_is_refused(whole: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "model.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}, str(file))
    with pytest.raises(CapabilityError, match="opens this layout with quantize"):
        open_backbone(file, quantize="int8")


def test_the_denoiser_and_t5_are_stored_so_and_clip_is_not() -> None:
    storage = Storage(torch.bfloat16, 8, config=lambda library: library)
    names = ["FluxTransformer2DModel", "T5EncoderModel", "CLIPTextModel", "AutoencoderKL"]
    said = [reading_options(storage, "any", name, names[0]) for name in names]
    assert said == [{"quantization_config": "any"}] * 2 + [{}] * 2
    assert reading_options(None, "any", names[0], names[0]) == {}


def test_a_gguf_file_with_its_folder(tmp_path: Path, write_folder: Any) -> None:
    gguf = pytest.importorskip("gguf")
    from pcs_diffusers.tiny_flux import tiny_flux

    built = tiny_flux()
    folder = write_folder(built, tmp_path / "model")
    full: Any = open_backbone(folder)
    for file in (folder / "transformer").glob("*.safetensors"):
        file.unlink()
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(str(tmp_path / "model.gguf"), "flux")
    packed = set()
    for name, tensor in built.denoiser.state_dict().items():
        numbers = tensor.float().numpy()
        if numbers.ndim == 2 and numbers.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
            packed.add(name)
        else:
            writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    backbone: Any = open_backbone(tmp_path / "model.gguf")
    assert backbone.card.family == "flux"
    assert backbone.stored_as == "gguf"
    stored = dict(backbone.denoiser.named_parameters())
    assert packed
    assert all(stored[name].dtype == torch.uint8 for name in packed)
    assert [(s.name, s.shape) for s in backbone.sites] == [(s.name, s.shape) for s in full.sites]
    recipe = load_recipe("lora-dreambooth", backbone=str(folder), overrides=["tune.steps=2"])
    artifact = fit(recipe, subject(), backbone, precision="bf16")[0]
    assert artifact.extra["weights"] == "gguf"
    ours = sample(artifact, backbone, "a photo of <thing>", steps=2)
    assert ours.isfinite().all()
    plain = [sample(None, b, "a dog", steps=2) for b in (backbone, full)]
    assert (plain[0] - plain[1]).abs().mean() < 0.03
    (tmp_path / "alone.gguf").write_bytes((tmp_path / "model.gguf").read_bytes())
    with pytest.raises(InputError, match="put the folder 'alone' in diffusers' layout beside it"):
        open_backbone(tmp_path / "alone.gguf")
    config = json.loads((folder / "transformer" / "config.json").read_text())
    assert config["_class_name"] == "FluxTransformer2DModel"
