"""What a family's model folder holds, part by part, and how the parts are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pcs_diffusers.checked import check_tokenizer
from pcs_diffusers.folders import whole
from pcs_diffusers.stored import Storage, reading_options
from pcs_diffusers.tokenizers import read_t5_tokenizer, read_tokenizer
from pcs_diffusers.weight_files import weight_files

TOKENIZERS: Mapping[str, Callable[[Path], Any]] = {
    "transformers.CLIPTokenizer": read_tokenizer,
    "transformers.T5Tokenizer": read_t5_tokenizer,
}


@dataclass(frozen=True)
class FolderLayout:
    """The parts of a model folder beside its scheduler, as its ``model_index.json`` lists them.

    ``parts``: name of a folder -> library and class of what it holds, the denoiser first and the
    autoencoder second. A folder may lack those in ``optional``.
    """

    parts: Mapping[str, str]
    optional: frozenset[str] = frozenset()

    @property
    def denoiser(self) -> str:
        """The folder of the network that denoises."""
        return next(iter(self.parts))

    @property
    def autoencoder(self) -> str:
        """The folder of the network between pictures and latents."""
        return list(self.parts)[1]

    @property
    def networks(self) -> tuple[str, ...]:
        """The folders that hold weights, in the order in which they are hashed."""
        return tuple(sorted(n for n, kind in self.parts.items() if kind not in TOKENIZERS))

    @property
    def libraries(self) -> Mapping[str, str]:
        """The folders that hold weights, in the order in which they are hashed -> who loads them."""
        return {name: self.parts[name].partition(".")[0] for name in self.networks}

    @property
    def needed(self) -> tuple[str, ...]:
        """The folders that must be there, the scheduler's too."""
        return (*(n for n in self.parts if n not in self.optional), "scheduler")

    def class_name(self, part: str) -> str:
        """Return the name of the class that ``part`` holds."""
        return self.parts[part].rpartition(".")[2]

    def check(self, parts: Mapping[str, Any]) -> None:
        """Refuse parts of other names than the layout's.

        Raises
        ------
        TypeError
            Names the parts that are missing or unknown.
        """
        missing = set(self.parts) - self.optional - set(parts)
        unknown = set(parts) - set(self.parts)
        if missing or unknown:
            raise TypeError(f"parts missing: {sorted(missing)}, unknown: {sorted(unknown)}")

    def read_part(
        self, part: str, folder: Path, dtype: torch.dtype, storage: Storage | None = None
    ) -> Any:
        """Return one part read from its own ``folder``, weights in ``dtype`` or as ``storage`` says.

        Raises
        ------
        OSError
            A file is missing, or the weights are not whole.
        InputError
            Its configuration asks for more than the class of this part.
        """
        kind = self.parts[part]
        if kind in TOKENIZERS:
            check_tokenizer(folder)
            return TOKENIZERS[kind](folder)
        library, _, name = kind.rpartition(".")
        # transformers calls the weights' type `dtype`, diffusers `torch_dtype`
        option = "torch_dtype" if library == "diffusers" else "dtype"
        variant = weight_files(folder, library).variant
        options: dict[str, Any] = {option: dtype}
        if variant is not None:
            options["variant"] = variant
        options |= reading_options(storage, library, name, self.class_name(self.denoiser))
        return whole(getattr(import_module(library), name), folder, **options)
