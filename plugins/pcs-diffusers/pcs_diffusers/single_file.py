"""One safetensors file of a whole model in the original release's naming, as model sites offer them.

diffusers converts it. What such a file lacks (configurations, tokenizers, the scheduler, for some the text
encoders or the autoencoder) comes from a folder in diffusers' layout beside it, of the same name without
``.safetensors``; without one from what is known here of the releases (SD 1.x, SDXL). Nothing is fetched.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pcs_core.errors import InputError, PcsError
from pcs_core.tensor_headers import read_header
from pcs_diffusers.checked import check_folder
from pcs_diffusers.family import DiffusersBackbone
from pcs_diffusers.flux import Flux, check_channels
from pcs_diffusers.folders import damaged, file_digest, schedule_digest
from pcs_diffusers.recognise import WHOLE, of_names
from pcs_diffusers.released import FIRST, release_folder, release_of
from pcs_diffusers.stable_diffusion import StableDiffusion
from pcs_diffusers.stable_diffusion_3 import StableDiffusion3
from pcs_diffusers.stable_diffusion_xl import StableDiffusionXL

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pcs_core.tensor_headers import Entry


def load(
    location: str | Path,
    *,
    id: str = "",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> DiffusersBackbone | None:
    """Open a file ``*.safetensors`` of SD 1.x, 2.x, XL, 3 or FLUX.1, or return None if it is no such file.

    Raises
    ------
    InputError
        It is of another kind or damaged, or what it lacks is neither beside it nor on the hub.
    """
    file = Path(location)
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    tensors = tensors_of(file)
    names = tuple(tensors)
    original = original_of(names)
    if original is None:
        raise InputError(
            f"backbone {str(file)!r} holds no denoiser of SD 1.x, 2.x, XL, 3 or FLUX.1 that is known here"
        )
    if original.family is Flux:
        check_channels(str(file), channels_read(tensors, "img_in.weight"))
    family, weights_type = original.family, dtype or torch.float32
    given = missing_parts(file.with_suffix(""), family, names, weights_type)
    pipeline = read_pipeline(file, original.pipeline, given, weights_type, tensors)
    config = dict(pipeline.scheduler.config)
    return family(
        **{name: getattr(pipeline, name) for name in family.layout.parts},
        **family.options(pipeline.config),
        scheduler_config=config,
        id=id or str(location),
        location=str(location),
        device=device,
        digest=file_digest(file, schedule_digest(config)),
    )


class Original(NamedTuple):
    """A family that releases single files, and the pipeline that reads them."""

    pipeline: str
    family: type[DiffusersBackbone]


ORIGINALS = {
    "flux": Original("FluxPipeline", Flux),
    "sd3": Original("StableDiffusion3Pipeline", StableDiffusion3),
    "sdxl": Original("StableDiffusionXLPipeline", StableDiffusionXL),
    "sd": Original("StableDiffusionPipeline", StableDiffusion),
}
TEXTS = ("conditioner.", "cond_stage_model.", "text_encoders.")
"""What the names of a file's text encoders begin with."""
PICTURES = ("first_stage_model.", "vae.")
"""What the names of a file's autoencoder begin with."""


def tensors_of(file: Path) -> dict[str, Entry]:
    """Return the tensors in a file by name, from its header alone.

    Raises
    ------
    InputError
        It is no safetensors file.
    """
    try:
        return read_header(file)
    except (OSError, ValueError) as error:
        raise InputError(f"backbone {str(file)!r} is no safetensors file: {error}") from error


def channels_read(tensors: Mapping[str, Entry], name: str = FIRST) -> int:
    """Return how many channels the denoiser's first layer reads, 0 where there is none of that ``name``."""
    first = tensors.get(name) or tensors.get(f"{WHOLE}{name}")
    return first.shape[1] if first is not None and len(first.shape) > 1 else 0


def original_of(names: Collection[str]) -> Original | None:
    """Return the family of a file by what its denoiser's tensors are called, or None."""
    family = of_names(names)
    return None if family is None else ORIGINALS[family]


def read_pipeline(
    file: Path, name: str, given: dict[str, Any], dtype: torch.dtype, tensors: Mapping[str, Entry]
) -> Any:
    """Return diffusers' pipeline of a file of ``tensors``; ``given`` are parts that are at hand.

    Raises
    ------
    InputError
        It does not load.
    """
    import diffusers

    beside = file.with_suffix("")
    given = given | {"local_files_only": True}
    if name == "StableDiffusionPipeline":
        given = given | {"safety_checker": None, "feature_extractor": None}
    diffusers.utils.logging.disable_progress_bar()  # the caller has a progress display of its own
    pipeline = getattr(diffusers, name)
    try:
        with ExitStack() as stack:
            if beside.is_dir():
                check_folder(beside)
                given["config"] = str(beside)
            elif release_of(tensors, channels_read(tensors)) == name:
                given["config"] = str(stack.enter_context(release_folder(name, tensors)))
            return pipeline.from_single_file(str(file), torch_dtype=dtype, **given)
    except InputError:
        raise
    except Exception as error:  # of the hub, the converter, the configurations
        if isinstance(error, AttributeError) and "text_model" in str(error):
            raise InputError(
                f"backbone {str(file)!r} does not load: diffusers {diffusers.__version__} reads no text "
                'encoder from a single file for transformers 5: pip install "diffusers>=0.39", or give a folder'
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"backbone {str(file)!r} does not load ({reason}): a folder {beside.name!r} beside it may hold "
            "what it lacks (model_index.json, configurations, tokenizers, scheduler)"
        ) from error


def missing_parts(
    folder: Path, family: type[DiffusersBackbone], names: Collection[str], dtype: torch.dtype
) -> dict[str, Any]:
    """Return text encoders and autoencoder from ``folder`` where a file has no tensors of them.

    Raises
    ------
    InputError
        One is not there, or does not load.
    """
    layout, parts = family.layout, dict[str, Any]()
    if not any(n.startswith(TEXTS) for n in names):
        for part in layout.parts:
            if part in layout.optional and not (folder / part).is_dir():
                parts[part] = None
            elif part.startswith("text_encoder"):
                parts[part] = part_of(folder, part, family, dtype)
    if not any(n.startswith(PICTURES) for n in names):
        parts[layout.autoencoder] = part_of(folder, layout.autoencoder, family, dtype)
    return parts


def part_of(folder: Path, part: str, family: type[DiffusersBackbone], dtype: torch.dtype) -> Any:
    """Return a part that the file lacks, from the folder beside it.

    Raises
    ------
    InputError
        It is not there, or does not load.
    """
    try:
        return family.layout.read_part(part, folder / part, dtype)
    except PcsError:
        raise
    except Exception as error:  # libraries raise whatever a folder led them to
        raise damaged(folder, error) from error
