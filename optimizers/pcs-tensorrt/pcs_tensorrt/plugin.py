"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def engines() -> Mapping[str, str]:
    """``tensorrt`` runs a deployment's graphs, ``torch-tensorrt`` compiles the backbone itself."""
    return {
        "tensorrt": "pcs_tensorrt.runtime:run",
        "torch-tensorrt": "pcs_tensorrt.torch_route:run",
    }


@catalogue_hookimpl
def commands() -> Mapping[str, str]:
    """``pcs tensorrt``: plan, build, report."""
    return {"tensorrt": "pcs_tensorrt.commands:app"}


@catalogue_hookimpl
def diagnoses() -> Mapping[str, str]:
    """What of TensorRT is here."""
    return {"tensorrt": "pcs_tensorrt.libraries:diagnose"}
