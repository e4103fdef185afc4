"""How the frozen weights of a backbone are stored: in 16, 8 or 4 bits, by diffusers and what it delegates to.

A matrix that is stored in few bits is brought to bfloat16 where it is used; convolutions, norms, embeddings and
the autoencoder are bfloat16 throughout. CLIP is small and stays bfloat16; T5 is stored as the denoiser is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pcs_core.errors import CapabilityError, InputError, nearest
from pcs_diffusers.few_bit_layers import keep_in_few_bits

if TYPE_CHECKING:
    from pcs_diffusers.family import DiffusersBackbone

LARGE = ("T5EncoderModel",)
"""Text encoders that are stored as the denoiser is."""


class Storage(NamedTuple):
    """A way to store weights.

    ``needs``: the package that does it. ``config``: of a library ("diffusers", "transformers") what its
    ``from_pretrained`` is given. ``gpu``: it runs on a GPU alone. ``bits`` of a number in a stored matrix.
    """

    dtype: torch.dtype
    bits: float
    needs: str = ""
    config: Callable[[str], Any] | None = None
    gpu: bool = False
    layerwise: bool = False


def _torchao(library: str) -> Any:
    if library == "diffusers":
        from diffusers import TorchAoConfig
    else:
        from transformers import TorchAoConfig
    return TorchAoConfig(import_module("torchao.quantization").Int8WeightOnlyConfig(version=2))


def _bitsandbytes(library: str, **bits: Any) -> Any:
    if library == "diffusers":
        from diffusers import BitsAndBytesConfig
    else:
        from transformers import BitsAndBytesConfig
    return BitsAndBytesConfig(**bits)


def _eight(library: str) -> Any:
    return _bitsandbytes(library, load_in_8bit=True)


def _four(library: str) -> Any:
    return _bitsandbytes(
        library,
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


STORAGES: Mapping[str, Storage] = {
    "bf16": Storage(torch.bfloat16, 16),
    "fp16": Storage(torch.float16, 16),
    "fp8": Storage(torch.bfloat16, 8, layerwise=True),
    "int8": Storage(torch.bfloat16, 8, "torchao", _torchao),
    "bnb-int8": Storage(torch.bfloat16, 8, "bitsandbytes", _eight, gpu=True),
    "nf4": Storage(torch.bfloat16, 4.5, "bitsandbytes", _four, gpu=True),
}
"""By the name that ``--quantize`` takes. bitsandbytes stores matrices on a GPU alone."""


def storage_of(name: str, device: str | torch.device = "cpu") -> Storage:
    """Return the storage ``name``.

    Raises
    ------
    InputError
        There is none of this name.
    CapabilityError
        What it needs is not installed, or it does not run on this device.
    """
    if name not in STORAGES:
        raise InputError(
            f"quantize={name!r}: no such storage of weights{nearest(name, STORAGES)} ({', '.join(STORAGES)})"
        )
    storage = STORAGES[name]
    if storage.gpu and torch.device(device).type != "cuda":
        raise CapabilityError(
            f"quantize={name!r}: {storage.needs} stores weights so on a GPU alone, and the device is "
            f"{str(device)!r}: use int8 or fp8"
        )
    if storage.needs and find_spec(storage.needs) is None:
        raise CapabilityError(
            f"quantize={name!r} needs {storage.needs}, which is not installed: "
            f'pip install "pcs-diffusers[{storage.needs}]"'
        )
    return storage


def reading_options(
    storage: Storage | None, library: str, name: str, denoiser: str
) -> dict[str, Any]:
    """Return what ``from_pretrained`` of class ``name`` is given beside the type of weights."""
    if storage is None or storage.config is None or name not in (denoiser, *LARGE):
        return {}
    return {"quantization_config": storage.config(library)}


def store_layerwise(backbone: DiffusersBackbone) -> None:
    """Store the denoiser's matrices and kernels in float8; each layer is bfloat16 while it computes."""
    backbone.denoiser.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16
    )
    keep_in_few_bits(backbone.denoiser)


def compute_dtype(module: Any) -> torch.dtype:
    """Return the type that a network computes in: of the first parameter that is not stored in few bits."""
    types = [p.dtype for p in module.parameters() if p.is_floating_point() and p.itemsize > 1]
    return types[0] if types else torch.float32
