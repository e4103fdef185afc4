"""Model folders in diffusers' layout: found, opened whole, and told apart by their weights.

Every loader of this plugin goes through here. Safetensors only: pickled weights and remote code are
refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import InputError
from pcs_core.tensor_headers import read_header
from pcs_diffusers.checked import check_part, read_config
from pcs_diffusers.weight_files import weight_files

if TYPE_CHECKING:
    from torch import nn


HUB_PARTS = (
    *("unet", "transformer", "motion_adapter", "vae", "vqvae", "scheduler"),
    *(f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")),
)
"""Folders of a hub id that a loader may read."""
SCHEDULE_KEYS = (
    "prediction_type",
    "num_train_timesteps",
    "trained_betas",
    "rescale_betas_zero_snr",
    "shift",
)
"""What of a scheduler's configuration says which noise the network knows, beside the betas."""


def find_folder(
    location: str | Path, knows: Callable[[Path], bool], parts: Sequence[str]
) -> Path | None:
    """Return the folder of ``location`` (a folder or hub id) if the family ``knows`` it, else None.

    Raises
    ------
    InputError
        It is one, and one of ``parts`` is missing; or the hub cannot be reached.
    """
    folder = Path(location)
    if not folder.is_dir():
        if folder.exists() or str(location).count("/") != 1:
            return None
        folder = from_hub(str(location))
    if not knows(folder):
        return None
    for part in parts:
        if not (folder / part).is_dir():
            raise InputError(f"backbone {str(location)!r}: folder {part!r} is missing")
    return folder


def read_scheduler(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model folder's scheduler."""
    config: dict[str, Any] = dict(read_config(folder / "scheduler" / "scheduler_config.json"))
    return config


def part_config(folder: Path) -> Mapping[str, Any]:
    """Return the configuration of the part in ``folder``, or an empty one if there is none.

    The families are told apart by the entry ``_class_name`` of their denoiser's.

    Raises
    ------
    InputError
        It cannot be read, or asks for what is not taken from a folder.
    """
    file = folder / "config.json"
    return read_config(file) if file.is_file() else {}


def damaged(location: str | Path, error: Exception) -> InputError:
    """Return the error of a folder that has the layout and does not load."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(f"backbone {str(location)!r} does not load: {reason}")


def whole(cls: Any, folder: Path, **options: Any) -> Any:
    """Load a model class from a folder; a tensor that the file lacks is an error, not a random one.

    Raises
    ------
    OSError
        A file is missing or lies about what it holds, or the weights are not those of the class.
    InputError
        Its configuration asks for more than the class.
    """
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    check_part(folder, cls.__name__)
    for file in weight_files(folder, cls.__module__.partition(".")[0]).files:
        try:
            read_header(file)
        except ValueError as error:
            raise OSError(f"{folder.name}/{file.name}: {error}") from error
    disable_progress_bar()  # the caller has a progress display of its own
    try:
        model, report = cls.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise OSError(f"{folder.name}: {str(error).splitlines()[0]}") from error
    if missing := sorted(report["missing_keys"]):
        raise OSError(
            f"the weights in {str(folder)!r} lack {missing[0]!r}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        )
    return model


def schedule_digest(config: Mapping[str, Any]) -> Any:
    """Begin a digest with what the network predicts and under which noise: it is part of what it is."""
    schedule = {
        k: v for k, v in sorted(config.items()) if k in SCHEDULE_KEYS or k.startswith("beta_")
    }
    return hashlib.sha256(json.dumps(schedule, sort_keys=True).encode())


def folder_digest(folder: Path, parts: Mapping[str, str]) -> str:
    """Return sha256 over the weight files that are loaded, by relative name, and the noise schedule.

    ``parts``: folder -> the library that loads it.
    """
    return _digest_of(
        folder, {part: weight_files(folder / part, kind).files for part, kind in parts.items()}
    )


def former_digest(folder: Path, parts: Mapping[str, str]) -> str:
    """Return what :func:`folder_digest` was before it left out files that are never loaded."""
    return _digest_of(
        folder, {part: tuple(sorted((folder / part).glob("*.safetensors"))) for part in parts}
    )


def _digest_of(folder: Path, files: Mapping[str, Sequence[Path]]) -> str:
    digest = schedule_digest(read_scheduler(folder))
    for part, part_files in files.items():
        for file in part_files:
            digest.update(f"{part}/{file.name}".encode())
            _read_into(digest, file)
    return str(digest.hexdigest())


def file_digest(file: Path, digest: Any) -> str:
    """Return sha256 over what a file holds, behind what ``digest`` holds."""
    _read_into(digest, file)
    return str(digest.hexdigest())


def _read_into(digest: Any, file: Path) -> None:
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)


def from_hub(name: str) -> Path:
    """Fetch a hub id's folder, in any layout of this plugin.

    Raises
    ------
    InputError
        The hub cannot be reached, or has no such id.
    """
    from huggingface_hub import snapshot_download

    patterns = [f"{part}/*" for part in HUB_PARTS] + ["model_index.json"]
    try:
        return Path(
            snapshot_download(
                name, allow_patterns=patterns, ignore_patterns=["*.bin", "*.ckpt", "*.msgpack"]
            )
        )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"backbone {name!r} is neither an installed backbone nor a folder, and could not be "
            f"fetched from the hub ({reason})"
        ) from error


def weights_digest(parts: Mapping[str, nn.Module], digest: Any) -> str:
    """Return sha256 over all weights of ``parts``, by name, behind what ``digest`` holds."""
    for part, module in parts.items():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}/{name}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return str(digest.hexdigest())
