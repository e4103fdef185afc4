"""Execution providers of ONNX Runtime: chosen by device or by name, never silently another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pcs_core.errors import InputError, nearest

NAMES: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Short name -> ONNX Runtime's."""
HOW: Mapping[str, str] = {
    "cpu": "reinstall onnxruntime",
    "cuda": "install onnxruntime-gpu in place of onnxruntime, and the CUDA and cuDNN it was built for",
    "tensorrt": (
        "install onnxruntime-gpu in place of onnxruntime, and TensorRT's libraries from NVIDIA's own "
        "package index"
    ),
}
"""Short name -> how to get it."""
DEFAULT: Mapping[str, tuple[str, ...]] = {"cpu": ("cpu",), "cuda": ("cuda", "cpu")}
"""Device type -> providers, the best first. TensorRT builds engines for minutes: only when asked for."""
VARIABLE = "PCS_ONNX_PROVIDERS"
"""Names them where nothing else does, comma between."""


def providers(device: str, wanted: Sequence[str] = ()) -> list[str]:
    """Return the execution providers for ``device``, ONNX Runtime's names, the best first.

    ``wanted`` are short names ("tensorrt", "cuda", "cpu"); without them the environment variable
    ``PCS_ONNX_PROVIDERS``, or those of the device.

    Raises
    ------
    InputError
        No such provider, or this installation of ONNX Runtime has it not.
    """
    import onnxruntime

    there = onnxruntime.get_available_providers()
    named = os.environ.get(VARIABLE, "").replace(" ", "")
    names = tuple(wanted) or tuple(filter(None, named.split(",")))
    kind = device.split(":")[0]
    if not names and kind not in DEFAULT:
        raise InputError(
            f"ONNX Runtime runs on cpu and cuda here, not on device {device!r}: use --device cpu"
        )
    names = names or DEFAULT[kind]
    for name in names:
        if name not in NAMES:
            raise InputError(
                f"no execution provider {name!r}{nearest(name, NAMES)} (known: {', '.join(NAMES)})"
            )
    if kind == "cpu" and names[0] != "cpu":
        raise InputError(f"the execution provider {names[0]!r} runs on a GPU: use --device cuda")
    if NAMES[names[0]] not in there:
        raise InputError(
            f"ONNX Runtime here has no execution provider {names[0]!r} (it has {', '.join(there)}): "
            f"use --device cpu, or {HOW[names[0]]}"
        )
    return [NAMES[name] for name in names if NAMES[name] in there]


def configured(names: Sequence[str], device: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the providers with their options: on the device's index, on torch's stream."""
    if names[0] == NAMES["cpu"]:
        return [(name, {}) for name in names]
    import torch

    index = torch.device(device).index or 0
    own: dict[str, Any] = {"device_id": index}
    if torch.cuda.is_available():
        own["user_compute_stream"] = str(torch.cuda.current_stream(index).cuda_stream)
    return [(name, {} if name == NAMES["cpu"] else dict(own)) for name in names]
