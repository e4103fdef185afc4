"""Opening a deployment folder as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pcs_core.errors import ArtifactError, InputError
from pcs_onnx import manifest
from pcs_onnx.backbone import OnnxBackbone

__all__ = ["OnnxBackbone", "load"]


def load(
    location: str | Path,
    *,
    id: str = "",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    providers: Sequence[str] = (),
    disabled_optimizers: Sequence[str] = (),
    precision: str = "fp32",
) -> OnnxBackbone | None:
    """Open a deployment folder, or return None if it is none.

    ``providers`` are execution providers by short name, the best first, or "openvino"; without them
    ``PCS_ONNX_PROVIDERS``, or those of the device. ``precision`` "bf16" lets OpenVINO round to bfloat16.

    Raises
    ------
    ArtifactError
        It is damaged, or of another version of the format.
    InputError
        ONNX Runtime has no execution provider for ``device``, ``dtype`` is not the exported one, or
        what runs the graphs has no such ``precision``.
    """
    folder = Path(location)
    if not folder.is_dir() or not manifest.is_deployment(folder):
        return None
    try:
        opened = OnnxBackbone(
            folder,
            device=device,
            preferred=providers,
            disabled=disabled_optimizers,
            precision=precision,
        )
        exported = getattr(torch, opened.manifest["dtype"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # what the manifest says is of another kind than what an export writes
        raise ArtifactError(
            f"{folder / manifest.FILE} is damaged ({type(error).__name__}: {error}): export it again"
        ) from error
    if dtype not in (None, exported):
        raise InputError(
            f"{folder}: the deployment is in {opened.manifest['dtype']}, not in {dtype}"
        )
    return opened
