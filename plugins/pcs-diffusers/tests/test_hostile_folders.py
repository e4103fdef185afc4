"""A model's folder cannot make a library import, fetch or allocate what nobody asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcs_core import open_backbone
from pcs_core.errors import InputError
from pcs_diffusers import checked


def edited(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("part", "entries", "said"),
    [
        ("unet", {"_class_name": "FluxTransformer2DModel"}, "no installed plugin|_class_name"),
        ("vae", {"_class_name": "AsymmetricAutoencoderKL"}, "_class_name is"),
        ("text_encoder", {"auto_map": {"AutoModel": "evil/repo--model.Model"}}, "auto_map"),
        ("text_encoder", {"_attn_implementation_internal": "evil/kernel"}, "_attn_implementation"),
        ("text_encoder", {"_attn_implementation": "evil/kernel"}, "no kernel"),
        ("text_encoder", {"trust_remote_code": True}, "trust_remote_code"),
        ("text_encoder", {"sub": {"trust_remote_code": True}}, "sub.trust_remote_code"),
        ("unet", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
        ("text_encoder", {"num_hidden_layers": 1_000_000}, "num_hidden_layers"),
        ("unet", {"layers_per_block": 10**9}, "layers_per_block"),
        ("unet", {"block_out_channels": [32] * 100_000}, "100000 entries"),
        ("unet", {"sample_size": 10**12}, "sample_size"),
    ],
)
def test_a_configuration_that_asks_for_more_is_refused(
    folder: Path, part: str, entries: dict[str, Any], said: str
) -> None:
    edited(folder / part / "config.json", **entries)
    with pytest.raises(InputError, match=said):
        open_backbone(folder)


def test_nesting_without_end_is_refused(folder: Path) -> None:
    (folder / "vae" / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(InputError, match="nested"):
        open_backbone(folder)


def test_a_tokenizer_of_hundreds_of_megabytes_is_refused(folder: Path) -> None:
    with (folder / "tokenizer" / "tokenizer.json").open("r+b") as file:
        file.truncate(checked.MOST_TOKENIZER + 1)  # sparse: it takes no disk
    with pytest.raises(InputError, match="larger than"):
        open_backbone(folder)


def test_a_tokenizer_names_no_file_elsewhere(folder: Path) -> None:
    edited(folder / "tokenizer" / "tokenizer_config.json", vocab_file="/etc/passwd")
    with pytest.raises(InputError, match="vocab_file"):
        open_backbone(folder)


@pytest.mark.parametrize(
    "component",
    [["this", "s"], ["os", "System"], ["diffusers", "os.system"], ["evil.module", "Net"], ["diffusers"],
     [["diffusers"], "X"]],
)  # fmt: skip
def test_an_index_names_no_other_library(tmp_path: Path, component: Any) -> None:
    file = tmp_path / "model_index.json"
    file.write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "unet": component}))
    with pytest.raises(InputError, match="unet is"):
        checked.check_folder(tmp_path)


def test_an_index_as_it_is_released_passes(tmp_path: Path) -> None:
    index = {
        "_class_name": "StableDiffusionPipeline",
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": [None, None],
        "requires_safety_checker": True,
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    checked.check_folder(tmp_path)


def test_a_folder_of_diffusers_opens(whole: Path) -> None:
    """Nothing of what diffusers writes itself is refused."""
    assert open_backbone(whole).card.hash
