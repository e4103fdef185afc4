"""A model's folder or file makes no library import, fetch or build what nobody asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

BASE = ("sample", "--base", "model", "a dog", "-o", "out", "-n", 1, "--steps", 1)

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "auto-map": ("text_encoder", {"auto_map": {"AutoModel": "evil/repo--model.Model"}}),
    "auto-map-unet": ("unet", {"auto_map": {"AutoModel": "evil--model.Model"}}),
    "custom-pipeline": ("unet", {"custom_pipeline": "evil/pipeline"}),
    "trust": ("vae", {"trust_remote_code": True}),
    "nested-trust": ("text_encoder", {"text_config": {"trust_remote_code": True}}),
    "kernel": ("text_encoder", {"_attn_implementation_internal": "evil/kernel:function"}),
    "kernel-plain": ("text_encoder", {"attn_implementation": "evil/kernel"}),
    "kernel-nested": ("text_encoder", {"text_config": {"_attn_implementation": "paged|evil/k"}}),
    "kernel-table": ("text_encoder", {"_attn_implementation": {"": "evil/kernel"}}),
    "kernel-processor": ("unet", {"attn_processor": "evil/kernel"}),
    "experts": ("text_encoder", {"_experts_implementation": "evil/kernel"}),
    "experts-internal": ("text_encoder", {"_experts_implementation_internal": "evil/kernel"}),
    "class-of-others": ("unet", {"_class_name": "os.system"}),
    "class-list": ("unet", {"_class_name": ["UNet2DConditionModel"]}),
    "quantized": ("unet", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}),
    "quantized-torchao": ("unet", {"quantization_config": {"quant_method": "torchao", "quant_type": "int8wo"}}),
    "quantized-text": ("text_encoder", {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
    "quantized-empty-name": ("text_encoder", {"quantization_config": {"x": 0}}),
    "compressed": ("text_encoder", {"compression_config": {"format": "x"}}),
    "layers": ("text_encoder", {"num_hidden_layers": 1_000_000}),
    "layers-text": ("text_encoder", {"num_hidden_layers": "9" * 400}),
    "width": ("text_encoder", {"hidden_size": 2**23, "intermediate_size": 2**23}),
    "vocabulary": ("text_encoder", {"vocab_size": 2**23, "hidden_size": 65536}),
    "positions": ("text_encoder", {"max_position_embeddings": 2**40}),
    "heads": ("text_encoder", {"num_attention_heads": 0}),
    "head-negative": ("unet", {"attention_head_dim": -1}),
    "channels": ("unet", {"block_out_channels": [2**23, 2**23]}),
    "channels-zero": ("unet", {"block_out_channels": []}),
    "cross": ("unet", {"cross_attention_dim": 2**23}),
    "cross-text": ("unet", {"cross_attention_dim": "x"}),
    "layers-per-block": ("unet", {"layers_per_block": 400, "block_out_channels": [64, 64]}),
    "transformer-layers": ("unet", {"transformer_layers_per_block": 400}),
    "a-long-list": ("unet", {"block_out_channels": [32] * 100_000}),
    "many-blocks": ("unet", {"down_block_types": ["DownBlock2D"] * 4000, "block_out_channels": [32] * 4000}),
    "a-block-of-others": ("unet", {"down_block_types": ["os.system", "DownBlock2D"]}),
    "activation": ("unet", {"act_fn": "__import__('this')"}),
    "activation-text": ("text_encoder", {"hidden_act": "__import__('this')"}),
    "sample-size": ("vae", {"sample_size": 10**12}),
    "scaling": ("vae", {"scaling_factor": "1e999"}),
    "latents": ("vae", {"latent_channels": 2**22}),
    "no-name": ("unet", {"_class_name": None}),
    "dtype": ("text_encoder", {"dtype": "__import__('this')", "torch_dtype": "os"}),
    "name-or-path": ("text_encoder", {"_name_or_path": "evil/repo", "_commit_hash": "x"}),
    "label-bomb": ("text_encoder", {"num_labels": 2**23}),
    "id2label": ("text_encoder", {"id2label": {"x": 1}}),
    "architectures": ("text_encoder", {"architectures": ["this"], "model_type": "this"}),
    "tp-plan": ("text_encoder", {"tp_plan": "auto", "base_model_tp_plan": {"*": "this"}}),
    "adapters": ("unet", {"peft_config": {"default": {"base_model_name_or_path": "evil/repo"}}}),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CONFIGS))
def test_a_part_s_configuration(case: str, attack: Callable[..., Any], model: Path) -> None:
    part, entries = CONFIGS[case]
    file = model / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    outcome = attack(*BASE, seconds=30).harmless()
    assert outcome.code in (0, 2), outcome
    assert outcome.seconds < 15, outcome


SCHEDULERS: dict[str, dict[str, Any]] = {
    "class": {"_class_name": "this.Zen"},
    "steps": {"num_train_timesteps": 2**24},
    "steps-more": {"num_train_timesteps": 10**15},
    "steps-negative": {"num_train_timesteps": -5},
    "steps-text": {"num_train_timesteps": "x"},
    "steps-none": {"num_train_timesteps": None},
    "betas": {"trained_betas": [0.1] * 3},
    "betas-text": {"trained_betas": "evil"},
    "betas-nan": {"beta_start": 1e308, "beta_end": 1e308},
    "betas-above-one": {"beta_start": 5, "beta_end": 7},
    "schedule": {"beta_schedule": "evil"},
    "prediction": {"prediction_type": "__import__('this')"},
    "prediction-list": {"prediction_type": []},
    "spacing": {"timestep_spacing": {"a": 1}},
    "offset": {"steps_offset": 10**9},
    "clip": {"clip_sample_range": float("1e308")},
    "solver": {"solver_order": 10**6, "algorithm_type": "this"},
    "auto-map": {"auto_map": {"x": "evil"}},
}


@pytest.mark.parametrize("case", sorted(SCHEDULERS))
def test_a_scheduler_s_configuration(case: str, attack: Callable[..., Any], model: Path) -> None:
    file = model / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **SCHEDULERS[case]}))
    outcome = attack(*BASE, seconds=30).harmless()
    assert outcome.code in (0, 2), outcome
    assert outcome.seconds < 15, outcome


INDICES: dict[str, Any] = {
    "zen": {"unet": ["this", "s"]},
    "scheduler-zen": {"scheduler": ["this", "s"]},
    "os": {"unet": ["os", "system"]},
    "path": {"unet": ["../evil", "Net"]},
    "attribute": {"unet": ["diffusers", "os.system"]},
    "underscored": {"_class_name": ["this", "s"]},
    "class": {"_class_name": "EvilPipeline"},
    "class-list": {"_class_name": ["pipeline", "EvilPipeline"]},
    "custom": {"custom_pipeline": "evil/pipeline"},
    "module": {"_module": "this"},
    "safety": {"safety_checker": ["this", "s"]},
    "more": {"evil": ["this", "s"]},
    "deeper": {"unet": [["this"], "s"]},
    "table": {"unet": {"library": "this", "class": "s"}},
    "modular": {"_blocks_class_name": "this", "blocks": ["this", "s", {"repo": "evil/repo"}]},
    "three": {
        "unet": ["diffusers", "UNet2DConditionModel", {"pretrained_model_name_or_path": "evil/r"}]
    },
}


@pytest.mark.parametrize("case", sorted(INDICES))
@pytest.mark.parametrize("kind", ["folder", "single file"])
def test_an_index(
    case: str, kind: str, attack: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    (model / "model_index.json").write_text(json.dumps(index | INDICES[case]))
    (model / "evil.py").write_text("raise SystemExit(9)")
    base = BASE
    if kind == "single file":
        tensor = torch.zeros(32, 4, 3, 3)
        save_file(
            {"model.diffusion_model.input_blocks.0.0.weight": tensor},
            tmp_path / "model.safetensors",
        )
        base = ("sample", "--base", "model.safetensors", *BASE[3:])
    outcome = attack(*base, seconds=30).harmless()
    assert outcome.code in (0, 2), outcome
    assert kind == "folder" or outcome.code == 2


BESIDE: dict[str, str] = {
    "text_encoder/adapter_config.json": json.dumps(
        {"base_model_name_or_path": "evil/repo", "peft_type": "LORA", "r": 1, "task_type": None}
    ),
    "unet/adapter_config.json": json.dumps(
        {"base_model_name_or_path": "evil/repo", "peft_type": "LORA"}
    ),
    "text_encoder/generation_config.json": json.dumps({"custom_generate": "evil/repo"}),
    "text_encoder/modeling_evil.py": "raise SystemExit(9)",
    "unet/evil.py": "raise SystemExit(9)",
    "text_encoder/custom_generate/generate.py": "raise SystemExit(9)",
    "text_encoder/quantize_config.json": json.dumps({"bits": 4}),
    "tokenizer/tokenization_evil.py": "raise SystemExit(9)",
    "tokenizer/chat_template.jinja": "{{ ''.__class__.__mro__ }}",
    "unet/config.yaml": "!!python/object/apply:os.system ['true']",
    "text_encoder/pytorch_model.bin": "\x80\x04",
    "unet/diffusion_pytorch_model.bin": "\x80\x04",
    "text_encoder/model.safetensors.index.json": json.dumps({"weight_map": {"a": "/etc/hostname"}}),
    "light_decoder/config.json": json.dumps(
        {"_class_name": "AutoencoderTiny", "auto_map": {"A": "evil"}}
    ),
}


@pytest.mark.parametrize("name", sorted(BESIDE))
def test_a_file_beside_the_weights(name: str, attack: Callable[..., Any], model: Path) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text(BESIDE[name])
    outcome = attack(*BASE, seconds=30).harmless()
    assert outcome.code in (0, 2), outcome


TOKENIZERS: dict[str, dict[str, Any]] = {
    "auto-map": {"auto_map": {"AutoTokenizer": ["evil--t.T", None]}},
    "class": {"tokenizer_class": "EvilTokenizer"},
    "class-this": {"tokenizer_class": "this"},
    "vocab": {"vocab_file": "/etc/hostname"},
    "merges": {"merges_file": "../../secret.txt"},
    "tokenizer-file": {"tokenizer_file": "../../secret.json"},
    "name-or-path": {"name_or_path": "evil/repo"},
    "special-file": {"special_tokens_map_file": "/etc/hostname"},
    "max-length": {"model_max_length": 10**30},
    "max-length-negative": {"model_max_length": -3},
    "max-length-text": {"model_max_length": "x"},
    "max-length-zero": {"model_max_length": 0},
    "many-tokens": {"added_tokens_decoder": {str(i): {"content": f"<{i}>"} for i in range(200_000)}},
    "token-no-text": {"bos_token": 3},
    "token-table": {"bos_token": {"__type": "AddedToken", "content": ["x"]}},
    "token-none": {"eos_token": None},
    "template": {"chat_template": "{% for i in range(10**9) %}{% endfor %}"},
    "processor": {"processor_class": "this"},
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(TOKENIZERS))
def test_a_tokenizer_s_configuration(case: str, attack: Callable[..., Any], model: Path) -> None:
    (model.parent / "secret.txt").write_text("x")
    (model.parent / "secret.json").write_text("{}")
    file = model / "tokenizer" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **TOKENIZERS[case]}))
    outcome = attack(*BASE, seconds=30).harmless()
    assert outcome.code in (0, 2), outcome
    assert outcome.seconds < 15, outcome


def bombs(data: dict[str, Any], case: str) -> Any:
    vocabulary, one = data["model"]["vocab"], {"id": 1, "content": "x", "special": False}
    one |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    changes: dict[str, Callable[[], object]] = {
        "list": lambda: [1, 2, 3],
        "no-model": lambda: data.pop("model"),
        "type": lambda: data["model"].update(type="Evil"),
        "huge-id": lambda: vocabulary.update({"zzz": 2**32 - 1}),
        "id-beyond": lambda: vocabulary.update({"dog</w>": 10**6}),
        "id-negative": lambda: vocabulary.update({"zzz": -1}),
        "id-text": lambda: vocabulary.update({"zzz": "9"}),
        "vocabulary": lambda: vocabulary.update({f"z{i}": 10**5 + i for i in range(1_000_000)}),
        "merges": lambda: data["model"].update(merges=[["a", "b"]] * 500_000),
        "added": lambda: data.update(added_tokens=[{**one, "id": 10**5 + i, "content": f"<{i}>"}
                                                   for i in range(100_000)]),
        "regex": lambda: data.update(pre_tokenizer={
            "type": "Split", "pattern": {"Regex": "(a+)+$|(?:(?:a|a)*)*b"}, "behavior": "Removed",
            "invert": False}),
        "regex-bad": lambda: data.update(normalizer={
            "type": "Replace", "pattern": {"Regex": "(((("}, "content": "x"}),
        "grows": lambda: data.update(normalizer={"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}] * 4}),
        "deep": lambda: data.update(normalizer=nested(2000)),
        "truncation": lambda: data.update(truncation={
            "direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 10**9}),
        "padding": lambda: data.update(padding={
            "strategy": {"Fixed": 2**31}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "x"}),
        "precompiled": lambda: data.update(normalizer={
            "type": "Precompiled", "precompiled_charsmap": "AAAA" * 10_000}),
        "cache": lambda: data["model"].update(dropout=1.0),
    }  # fmt: skip
    changed = changes[case]()
    return changed if case == "list" else data


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(depth):
        inner = {"type": "Sequence", "normalizers": [inner]}
        if depth > 900:
            return {"type": "Sequence", "normalizers": [inner] * 900}
    return inner


BOMBS = ("list", "no-model", "type", "huge-id", "id-beyond", "id-negative", "id-text", "vocabulary", "merges",
         "added", "regex", "regex-bad", "grows", "deep", "truncation", "padding", "precompiled",
         "cache")  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_a_tokenizer_that_is_a_bomb(case: str, attack: Callable[..., Any], model: Path) -> None:
    file = model / "tokenizer" / "tokenizer.json"
    file.write_text(json.dumps(bombs(json.loads(file.read_text()), case)))
    prompt = "a" * 40 + " dog" if case != "grows" else "aaaa dog"
    argv = [prompt if a == "a dog" else a for a in BASE]
    outcome = attack(*argv, seconds=30).harmless()
    assert outcome.code in (0, 2), outcome
    assert outcome.seconds < 15, outcome


@pytest.mark.parametrize("name", ["evil/model", "evil/model@main", "https://evil.example/m.safetensors",
                                  "model.ckpt", "model.bin", "model.pt", "model.gguf"])  # fmt: skip
def test_what_is_no_folder(name: str, attack: Callable[..., Any], tmp_path: Path) -> None:
    if "/" not in name:
        (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n(S'touch x'\ntR.")
    assert os.environ.get("HF_HUB_OFFLINE"), "tests look for no host"
    attack("sample", "--base", name, *BASE[3:]).refused()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("size", [(2**31, 4, 3, 3), (32, 4, 2**20, 2**20)])
def test_a_single_file_of_absurd_shapes(
    size: tuple[int, ...], attack: Callable[..., Any], raw: Callable[..., bytes], tmp_path: Path
) -> None:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    entry = {"dtype": "F32", "shape": list(size), "data_offsets": [0, 4]}
    (tmp_path / "m.safetensors").write_bytes(raw({name: entry}, b"\0" * 4))
    attack("sample", "--base", "m.safetensors", *BASE[3:]).refused("m.safetensors")
