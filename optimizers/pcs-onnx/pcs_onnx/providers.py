"""What runs the graphs: chosen by device or by name, never silently another.

Execution providers of ONNX Runtime, or OpenVINO, which reads the same files itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pcs_core.errors import InputError, nearest

NAMES: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Short name -> ONNX Runtime's."""
OPENVINO = "openvino"
"""The package of that name, on the CPU; not ONNX Runtime's provider, which is in a build of its own."""
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


def chosen(device: str, preferred: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what runs the graphs on ``device``, by short names, the best first.

    ``preferred`` are such names ("tensorrt", "cuda", "cpu", "openvino"); without them the environment
    variable ``PCS_ONNX_PROVIDERS``, or those of the device.

    Raises
    ------
    InputError
        No such name, it does not run on ``device``, or the package ``openvino`` is not installed.
    """
    named = os.environ.get(VARIABLE, "").replace(" ", "")
    names = tuple(preferred) or tuple(filter(None, named.split(",")))
    kind = device.split(":")[0]
    if not names and kind not in DEFAULT:
        raise InputError(
            f"ONNX Runtime runs on cpu and cuda here, not on device {device!r}: use --device cpu"
        )
    names = names or DEFAULT[kind]
    known = (*NAMES, OPENVINO)
    for name in names:
        if name not in known:
            raise InputError(
                f"no execution provider {name!r}{nearest(name, known)} (known: {', '.join(known)})"
            )
    if OPENVINO in names:
        if len(names) > 1:
            raise InputError(
                f"{OPENVINO!r} runs whole graphs and falls back to no other provider: name it alone"
            )
        if kind != "cpu":
            raise InputError(
                f"{OPENVINO!r} runs on the CPU here, not on {device!r}: use --device cpu"
            )
        openvino()
    elif kind == "cpu" and names[0] != "cpu":
        raise InputError(f"the execution provider {names[0]!r} runs on a GPU: use --device cuda")
    return names


def providers(device: str, preferred: Sequence[str] = ()) -> list[str]:
    """Return the execution providers for ``device``, ONNX Runtime's names, the best first.

    ``preferred`` as for :func:`chosen`.

    Raises
    ------
    InputError
        No such provider, or this installation of ONNX Runtime has it not.
    """
    import onnxruntime

    there = onnxruntime.get_available_providers()
    names = chosen(device, preferred)
    if OPENVINO in names:
        raise InputError(f"{OPENVINO!r} is no execution provider of ONNX Runtime here: name cpu")
    if NAMES[names[0]] not in there:
        raise InputError(
            f"ONNX Runtime here has no execution provider {names[0]!r} (it has {', '.join(there)}): "
            f"use --device cpu, or {HOW[names[0]]}"
        )
    return [NAMES[name] for name in names if NAMES[name] in there]


def openvino() -> Any:
    """Return the ``openvino`` module.

    Raises
    ------
    InputError
        It is not installed, or does not import.
    """
    try:
        import openvino as module
    except ImportError as error:
        raise InputError(
            f"{OPENVINO!r} needs the package openvino ({error}): pip install pcs-onnx[openvino]"
        ) from None
    return module


def openvino_version() -> str:
    """Return OpenVINO's version without its build: "2026.4.1"."""
    return str(openvino().__version__).split("-", 1)[0]


def diagnose() -> Iterator[tuple[str, str]]:
    """Yield lines for ``pcs doctor``: a state, "ok" or "note", and what is there or how to get it."""
    import onnxruntime

    there = onnxruntime.get_available_providers()
    available = ", ".join(short for short, name in NAMES.items() if name in there)
    yield "ok", f"ONNX Runtime {onnxruntime.__version__} with {available}"
    try:
        yield "ok", f"OpenVINO {openvino_version()}"
    except InputError as error:
        yield "note", str(error)


def configured(names: Sequence[str], device: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the providers with their options: on the device's index, on torch's stream."""
    if names[0] == NAMES["cpu"]:
        return [(name, {}) for name in names]
    import torch

    index = torch.device(device).index or 0
    options: dict[str, Any] = {"device_id": index}
    if torch.cuda.is_available():
        options["user_compute_stream"] = str(torch.cuda.current_stream(index).cuda_stream)
    return [(name, {} if name == NAMES["cpu"] else dict(options)) for name in names]
