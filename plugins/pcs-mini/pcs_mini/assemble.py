"""Put trained parts together as the shipped folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from pcs_mini.generate import check_model
from pcs_mini.metrics import stored

MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def assemble(model: Path, out: Path, vae: Path | None = None) -> Path:
    """Write the diffusers folder `out` in half precision from the folder `model` of a run.

    `vae` is an autoencoder whose decoder was trained further than the one in `model`, with the same
    latents. The folder is replaced as a whole, other files in it (the model card) are kept.
    """
    check_model(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        fresh = Path(scratch) / "weights"
        if out.exists():
            shutil.copytree(out, fresh)
        half = torch.float16
        text = CLIPTextModel.from_pretrained(model, subfolder="text_encoder").to(half)
        text.save_pretrained(fresh / "text_encoder")
        unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet").to(half)
        unet.save_pretrained(fresh / "unet")
        autoencoder = AutoencoderKL.from_pretrained(vae or model / "vae").to(half)
        autoencoder.save_pretrained(fresh / "vae")
        for part in ("unet", "vae"):
            _edit_config(fresh / part, "_name_or_path", None)
        # Loaders that follow the config open the text encoder as the other parts: in fp32.
        _edit_config(fresh / "text_encoder", "dtype", "float32")
        for part in ("tokenizer", "scheduler"):
            shutil.rmtree(fresh / part, ignore_errors=True)
            shutil.copytree(model / part, fresh / part)
        (fresh / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
        old = Path(scratch) / "old"
        if out.exists():
            os.replace(out, old)
        os.replace(fresh, out)
    return out


def take_metrics(folder: Path) -> list[str]:
    """Copy the trained metrics of a folder of `pcs mini metric` to the shipped ones; their names.

    Without tokenizers: the backbone's, made of the same words, is beside them.
    """
    names = [p.parent.name for p in sorted(folder.glob("*/config.json"))]
    for name in names:
        target = stored.FOLDER / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder / name, target, ignore=shutil.ignore_patterns(stored.TOKENIZER))
    return names


def _edit_config(folder: Path, key: str, value: str | None) -> None:
    """Set one entry of the folder's ``config.json``; None takes it out."""
    path = folder / "config.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data.pop(key, None)
    if value is not None:
        data[key] = value
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
