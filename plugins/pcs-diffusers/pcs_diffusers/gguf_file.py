"""A denoiser in few bits as one GGUF file, ``model.gguf``, and all else in the folder ``model`` beside it.

diffusers reads the file (``from_single_file`` with a ``GGUFQuantizationConfig``) and brings each matrix to
bfloat16 where it is used. The folder has diffusers' layout; of its denoiser the configuration alone is read.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.folders import file_digest, read_scheduler, schedule_digest
from pcs_diffusers.recognise import GGUF
from pcs_diffusers.weightless import FAMILIES

if TYPE_CHECKING:
    from pcs_diffusers.family import DiffusersBackbone


def load(
    location: str | Path,
    *,
    id: str = "",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> DiffusersBackbone | None:
    """Open ``model.gguf`` with the folder ``model`` beside it, or return None where it is no such file.

    Raises
    ------
    InputError
        The folder is missing or of no family, or the file does not load.
    CapabilityError
        The package gguf is not installed, or diffusers reads no single file of this class.
    """
    file = Path(location)
    if file.suffix != GGUF or not file.is_file():
        return None
    beside = file.with_suffix("")
    family = next((f for f in FAMILIES if beside.is_dir() and f.knows(beside)), None)
    if family is None:
        raise InputError(
            f"backbone {str(file)!r} holds a denoiser alone: put the folder {beside.name!r} in diffusers' "
            "layout beside it, whose denoiser needs no weights"
        )
    if find_spec("gguf") is None:
        raise CapabilityError(
            f'backbone {str(file)!r} needs gguf, which is not installed: pip install "pcs-diffusers[gguf]"'
        )
    family.check_config(beside)
    layout, kind = family.layout, dtype or torch.bfloat16
    parts: dict[str, Any] = {
        name: partial(
            layout.read_part, name, beside / name, family.part_dtype(name, beside / name, kind)
        )
        for name in layout.parts
        if (beside / name).is_dir()
    }
    parts[layout.denoiser] = partial(_denoiser, family, file, beside / layout.denoiser, kind)
    opened = family.of_parts(
        beside,
        parts,
        location=location,
        id=id,
        device=device,
        digest=lambda: file_digest(file, schedule_digest(read_scheduler(beside))),
    )
    opened.stored_as = "gguf"
    return opened


def _denoiser(family: type[DiffusersBackbone], file: Path, folder: Path, dtype: torch.dtype) -> Any:
    from diffusers import GGUFQuantizationConfig

    library, _, name = family.layout.parts[family.layout.denoiser].rpartition(".")
    cls = getattr(import_module(library), name)
    if not hasattr(cls, "from_single_file"):
        raise CapabilityError(f"backbone {str(file)!r}: diffusers reads no single file of {name}")
    return cls.from_single_file(
        str(file),
        quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
        config=str(folder),
        torch_dtype=dtype,
        local_files_only=True,
    )
