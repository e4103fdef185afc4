"""TensorRT's libraries: imported when needed, and what to do where they are missing.

They come from NVIDIA's own package index and are no requirement of this distribution: what ``tensorrt``
on the public index installs is a small package that downloads them from there.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from pcs_core.errors import InputError

HOW = (
    "TensorRT comes from NVIDIA's own package index and needs an NVIDIA GPU with its driver: "
    "its installation guide names the index: pip install --extra-index-url INDEX tensorrt"
)
HOW_TORCH = "pip install torch-tensorrt, on a machine with CUDA"
OLDEST = (10, 0)


def tensorrt() -> Any:
    """Return the ``tensorrt`` module.

    Raises
    ------
    InputError
        It, or a library it loads, is missing, or it is too old; says how to get it.
    """
    try:
        module = importlib.import_module("tensorrt")
    except Exception as error:  # a missing shared library is an OSError or an ImportError
        raise InputError(f"TensorRT does not import ({reason(error)}). {HOW}") from error
    if version(module) < OLDEST:
        raise InputError(
            f"TensorRT {module.__version__} is too old: 10.0 or newer is needed. {HOW}"
        )
    return module


def version(module: Any) -> tuple[int, int]:
    """Return major and minor of a module's ``__version__``."""
    major, minor = str(module.__version__).split(".")[:2]
    return int(major), int(minor)


def reason(error: BaseException) -> str:
    """Return the first line of an error, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def diagnose() -> Iterator[tuple[str, str]]:
    """Yield lines for ``pcs doctor``: a state, "ok" or "note", and what is there or how to get it."""
    try:
        yield "ok", f"TensorRT {tensorrt().__version__}"
    except InputError as error:
        yield "note", str(error)
    try:
        yield "ok", f"Torch-TensorRT {importlib.import_module('torch_tensorrt').__version__}"
    except Exception as error:
        yield "note", f"Torch-TensorRT does not import ({reason(error)}). {HOW_TORCH}"
