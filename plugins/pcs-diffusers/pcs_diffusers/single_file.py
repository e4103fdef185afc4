"""One safetensors file of a whole model in the original release's naming, as model sites offer them.

diffusers converts it. What such a file lacks (configurations, tokenizers, the scheduler, for some the text
encoders or the autoencoder) comes from a folder in diffusers' layout beside it, of the same name without
``.safetensors``; without one from the hub id that diffusers takes for the file's kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import InputError
from pcs_diffusers.folders import damaged, file_digest, schedule_digest, whole
from pcs_diffusers.stable_diffusion import StableDiffusion
from pcs_diffusers.stable_diffusion_3 import StableDiffusion3
from pcs_diffusers.stable_diffusion_xl import StableDiffusionXL

if TYPE_CHECKING:
    from collections.abc import Collection


def load(
    location: str | Path,
    *,
    id: str = "",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> StableDiffusion | StableDiffusion3 | None:
    """Open a file ``*.safetensors`` of SD 1.x, 2.x, XL or 3, or return None if it is no such file.

    Raises
    ------
    InputError
        It is of another kind or damaged, or what it lacks is neither beside it nor on the hub.
    """
    file = Path(location)
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    import diffusers
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            names = tuple(opened.keys())
    except SafetensorError as error:
        raise InputError(f"backbone {str(file)!r} is no safetensors file: {error}") from error
    family = family_of(names)
    if family is None:
        raise InputError(
            f"backbone {str(file)!r} holds no denoiser of SD 1.x, 2.x, XL or 3 that is known here"
        )
    kind, wanted = getattr(diffusers, PIPELINES[family]), dtype or torch.float32
    beside = file.with_suffix("")
    given: dict[str, Any] = (
        {"config": str(beside), "local_files_only": True} if beside.is_dir() else {}
    )
    if family == "sd":
        given |= {"safety_checker": None, "feature_extractor": None}
    if not any(n.startswith(TEXTS) for n in names):
        given |= text_encoders(beside, family, wanted)
    if not any(n.startswith(PICTURES) for n in names):
        given["vae"] = part_of(beside, "vae", diffusers.AutoencoderKL, torch_dtype=wanted)
    try:
        pipeline = kind.from_single_file(str(file), torch_dtype=wanted, **given)
    except Exception as error:  # of the hub, the converter, the configurations
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"backbone {str(file)!r} does not load ({reason}): a folder {beside.name!r} beside it may hold "
            "what it lacks (model_index.json, configurations, tokenizers, scheduler)"
        ) from error
    config = dict(pipeline.scheduler.config)
    facts: dict[str, Any] = {
        "vae": pipeline.vae,
        "scheduler_config": config,
        "id": id or str(location),
        "location": str(location),
        "device": device,
        "digest": file_digest(file, schedule_digest(config)),
    }
    if family == "sd":
        return StableDiffusion(
            unet=pipeline.unet,
            text_encoder=pipeline.text_encoder,
            tokenizer=pipeline.tokenizer,
            **facts,
        )
    facts["text_encoders"] = (pipeline.text_encoder, pipeline.text_encoder_2)
    facts["tokenizers"] = (pipeline.tokenizer, pipeline.tokenizer_2)
    if family == "sdxl":
        zeros = bool(pipeline.config.get("force_zeros_for_empty_prompt", True))
        return StableDiffusionXL(unet=pipeline.unet, empty_is_zero=zeros, **facts)
    return StableDiffusion3(
        transformer=pipeline.transformer,
        t5=pipeline.text_encoder_3,
        t5_tokenizer=pipeline.tokenizer_3,
        **facts,
    )


TEXTS = ("conditioner.", "cond_stage_model.", "text_encoders.")
"""What the names of a file's text encoders begin with."""
PICTURES = ("first_stage_model.", "vae.")
"""What the names of a file's autoencoder begin with."""
PIPELINES = {
    "sd": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
}


def family_of(keys: Collection[str]) -> str | None:
    """Return the family of a file by what its denoiser's tensors are called, or None."""
    denoiser = "model.diffusion_model."
    if any(k.startswith(f"{denoiser}joint_blocks.") for k in keys):
        return "sd3"
    if any(k.startswith(f"{denoiser}label_emb.") for k in keys):
        return "sdxl"
    return "sd" if any(k.startswith(f"{denoiser}input_blocks.") for k in keys) else None


def text_encoders(folder: Path, family: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return the text encoders of a folder, for a file that holds none.

    Raises
    ------
    InputError
        One does not load.
    """
    import transformers

    projected = "CLIPTextModelWithProjection"
    classes = {
        "sd": ("CLIPTextModel",),
        "sdxl": ("CLIPTextModel", projected),
        "sd3": (projected, projected, "T5EncoderModel"),
    }[family]
    found: dict[str, Any] = {}
    for number, name in enumerate(classes, start=1):
        part = "text_encoder" if number == 1 else f"text_encoder_{number}"
        if number == 3 and not (folder / part).is_dir():  # SD 3 draws without T5
            found |= {part: None, "tokenizer_3": None}
            continue
        found[part] = part_of(folder, part, getattr(transformers, name), dtype=dtype)
    return found


def part_of(folder: Path, part: str, kind: Any, **options: Any) -> Any:
    """Return a part that the file lacks, from the folder beside it.

    Raises
    ------
    InputError
        It is not there, or does not load.
    """
    try:
        return whole(kind, folder / part, **options)
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from error
