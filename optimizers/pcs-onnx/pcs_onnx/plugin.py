"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def exporters() -> Mapping[str, str]:
    """``onnx``: a deployment folder of ONNX graphs."""
    return {"onnx": "pcs_onnx.export:export"}


@catalogue_hookimpl
def loaders() -> Mapping[str, str]:
    """``onnx``: such a folder as a backbone."""
    return {"onnx": "pcs_onnx.runtime:load"}


@catalogue_hookimpl
def commands() -> Mapping[str, str]:
    """``pcs quantize``: a deployment in INT8."""
    return {"quantize": "pcs_onnx.quantize_command:app"}


@catalogue_hookimpl
def diagnoses() -> Mapping[str, str]:
    """What runs the graphs here."""
    return {"onnx": "pcs_onnx.providers:diagnose"}
