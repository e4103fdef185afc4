"""``--engine torch-tensorrt``: the second route, without ONNX: Torch-TensorRT as backend of Dynamo.

The work is that of the engine ``compile``, so strengths, image tokens and tensors of edits stay inputs,
and ranks are filled up as there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pcs_core import installed
from pcs_core.errors import CapabilityError, InputError
from pcs_tensorrt.libraries import HOW_TORCH, reason
from pcs_tensorrt.runtime import check_gpu

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone

BACKEND = "torch_tensorrt"


def run(
    backbone: Backbone, *, regions: str = "blocks", rank: int = 0, dynamic: bool = False
) -> Backbone:
    """Return ``backbone`` with its denoiser compiled by Torch-TensorRT; options as of ``compile``.

    Raises
    ------
    InputError
        Torch-TensorRT, a GPU, or the engine ``compile`` is missing.
    CapabilityError
        The backbone is not on a CUDA device.
    """
    if "compile" not in installed().ids("engines"):
        raise InputError("engine 'torch-tensorrt' needs the engine 'compile': install pcs-compile")
    try:
        importlib.import_module(BACKEND)  # it makes itself known to Dynamo
    except Exception as error:
        raise InputError(
            f"Torch-TensorRT does not import ({reason(error)}). {HOW_TORCH}"
        ) from error
    check_gpu()
    if backbone.device.type != "cuda":
        raise CapabilityError(
            f"engine 'torch-tensorrt' runs on a CUDA device, the backbone is on {backbone.device}: "
            "use --device cuda"
        )
    compiled: Any = installed().get("engines", "compile")
    opened: Backbone = compiled(
        backbone, backend=BACKEND, regions=regions, rank=rank, dynamic=dynamic
    )
    return opened
