"""Which family a folder, a file or a hub id is of: from its configuration alone, nothing heavy imported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pcs_core.errors import InputError
from pcs_core.tensor_headers import read_header
from pcs_diffusers.checked import read_config

OF_CLASS = {
    "UNet2DConditionModel": "sd",
    "SD3Transformer2DModel": "sd3",
    "FluxTransformer2DModel": "flux",
    "UNet3DConditionModel": "video",
    "UNetMotionModel": "animatediff",
    "UVit2DModel": "tokens",
}
"""Family by the class of the denoiser; SDXL shares that of SD and says so in its configuration."""
MOTION = "motion_adapter"
"""The folder of AnimateDiff's motion modules beside a UNet of pictures."""
KONTEXT = "FluxKontextPipeline"
"""The pipeline by which a folder of FLUX.1 says that it is given references."""
GGUF = ".gguf"
"""Files of a denoiser in few bits; what else the model has is in the folder of their name beside them."""
WHOLE = "model.diffusion_model."
"""What stands before a denoiser's tensors in a file of a whole model."""
MARKERS = {
    "flux": ("double_blocks.", f"{WHOLE}double_blocks."),  # released without the other parts, too
    "sd3": (f"{WHOLE}joint_blocks.",),
    "sdxl": (f"{WHOLE}label_emb.",),
    "sd": (f"{WHOLE}input_blocks.",),
}
"""What a single file's denoiser holds; the first that is there counts: SDXL's have input blocks too."""


def family_of_location(location: str | Path) -> str | None:
    """Return the family ("sd", "sdxl", "flux"...), or None where it is of none of these layouts.

    A hub id is looked for in the local cache; nothing is downloaded.
    """
    path = Path(location)
    if path.is_file() and path.suffix == GGUF:
        return family_of_location(path.with_suffix("")) if path.with_suffix("").is_dir() else None
    if path.is_file():
        return _of_file(path)
    for part in ("unet", "transformer"):
        config = _config(path, str(location), f"{part}/config.json")
        if config is not None:
            family = OF_CLASS.get(str(config.get("_class_name")))
            if family == "sd" and _config(path, str(location), f"{MOTION}/config.json") is not None:
                return "animatediff"
            if family == "sd" and config.get("addition_embed_type") == "text_time":
                return "sdxl"
            if family == "flux":
                index = _config(path, str(location), "model_index.json") or {}
                return "flux-kontext" if index.get("_class_name") == KONTEXT else "flux"
            return family
    return None


def _config(folder: Path, location: str, name: str) -> dict[str, Any] | None:
    file = folder / name
    if not folder.is_dir():
        if location.count("/") != 1 or location.startswith((".", "/")):
            return None
        from huggingface_hub import try_to_load_from_cache

        try:
            cached = try_to_load_from_cache(location, name)
        except ValueError:  # no name that a hub gives
            return None
        if not isinstance(cached, str):
            return None
        file = Path(cached)
    try:
        return dict(read_config(file))
    except InputError:  # the loader that opens it says what is wrong
        return None


def _of_file(path: Path) -> str | None:
    """Return the family of a single safetensors file, by the names in its header."""
    if path.suffix != ".safetensors":
        return None
    try:
        return of_names(read_header(path))
    except (OSError, ValueError):  # the loader that opens it says what is wrong
        return None


def of_names(keys: Iterable[str]) -> str | None:
    """Return the family of a file by what its denoiser's tensors are called, or None."""
    for family, marks in MARKERS.items():
        if any(key.startswith(marks) for key in keys):
            return family
    return None
