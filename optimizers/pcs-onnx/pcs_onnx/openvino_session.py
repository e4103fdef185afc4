"""OpenVINO on the CPU: reads the graph's own file, and is called as a session of ONNX Runtime is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import InputError, nearest
from pcs_onnx.providers import openvino, openvino_version
from pcs_onnx.sessions import by_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

KEPT = 8
"""Compiled networks kept of a graph; each holds the weights in its own layout."""
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
"""Our name -> OpenVINO's."""


class OpenVinoSession:
    """One graph, ``rows`` at most in a call.

    With ``fixed`` it is compiled once per shapes of its inputs, which is what a denoiser is fastest with;
    without, once for all shapes. Values are never compiled in: another subject or strength compiles
    nothing. ``calls`` counts runs of the graph, ``compiles`` compilations.
    """

    def __init__(
        self, file: Path, rows: int, *, precision: str = "fp32", fixed: bool = True
    ) -> None:
        self.library = openvino()
        self.file, self.rows, self.precision, self.fixed = file, rows, precision, fixed
        self.core: Any = self.library.Core()
        self.model: Any = self._read()
        self.names = [p.get_friendly_name() for p in self.model.get_parameters()]
        self.outputs = [o.get_any_name() for o in self.model.outputs]
        self.calls = self.compiles = 0
        self._requests: dict[tuple[Any, ...], Any] = {}

    @property
    def providers(self) -> list[str]:
        """What runs the graph: for reports."""
        return [f"OpenVINO {openvino_version()}"]

    def __call__(self, batched: Sequence[Tensor], constant: Sequence[Tensor] = ()) -> list[Tensor]:
        """Return the outputs for inputs [b ...] and, behind them, inputs without a batch axis."""
        return by_rows(self._run, self.rows, batched, constant)

    def _run(self, values: Sequence[Tensor]) -> list[Tensor]:
        self.calls += 1
        request = self._request([tuple(v.shape) for v in values])
        # held until it has run: a tensor of OpenVINO that shares memory does not keep it
        inputs = [value.detach().cpu().contiguous().numpy() for value in values]
        for index, value in enumerate(inputs):
            request.set_input_tensor(index, self.library.Tensor(value, shared_memory=True))
        request.infer(share_outputs=True)
        # copied: the request writes its next results to the same place
        return [
            torch.from_numpy(request.get_output_tensor(i).data.copy())
            for i in range(len(self.outputs))
        ]

    def _request(self, shapes: list[tuple[int, ...]]) -> Any:
        """Return what runs inputs of ``shapes``, compiled if it is not kept."""
        key = tuple(shapes) if self.fixed else ()
        request = self._requests.pop(key, None)
        if request is None:
            request = self._compile(shapes)
            self.compiles += 1
        self._requests[key] = request  # the last used stands last
        while len(self._requests) > KEPT:
            del self._requests[next(iter(self._requests))]
        return request

    def _compile(self, shapes: list[tuple[int, ...]]) -> Any:
        model = self.model.clone()
        try:
            if self.fixed:
                model.reshape({i: list(shape) for i, shape in enumerate(shapes)})
            compiled = self.core.compile_model(model, "CPU", properties(self.precision))
        except RuntimeError as error:
            raise InputError(
                f"{self.file}: OpenVINO cannot compile it for inputs of {shapes[0]}: "
                f"{_last_line(error)}; use providers=cpu"
            ) from error
        return compiled.create_infer_request()

    def _read(self) -> Any:
        try:
            return self.core.read_model(str(self.file))
        except RuntimeError as error:
            operators = unknown_operators(str(error))
            why = f"does not know {operators}" if operators else f"refuses it ({_last_line(error)})"
            raise InputError(
                f"{self.file}: OpenVINO {openvino_version()} {why}: use providers=cpu, "
                "or export with a lower opset"
            ) from error


def properties(precision: str) -> dict[str, Any]:
    """Return how a graph is compiled: on torch's threads, and rounded only as ``precision`` says."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # pinned, two processes would share the same cores and leave others idle
        "ENABLE_CPU_PINNING": False,
        # its own choice is bfloat16 where the CPU has it, and 8-bit activations for some products
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }


def check_options(precision: str, disabled: Sequence[str], *, runs: bool) -> None:
    """Refuse options of the other library. ``runs`` says whether OpenVINO is what runs the graphs.

    Raises
    ------
    InputError
        No such precision, another than fp32 without OpenVINO, one that the CPU has not, or optimizers of
        ONNX Runtime.
    """
    if runs and disabled:
        raise InputError(
            "disabled_optimizers are ONNX Runtime's: leave them out with providers=openvino"
        )
    if precision not in PRECISIONS:
        raise InputError(
            f"no precision {precision!r}{nearest(precision, PRECISIONS)} "
            f"(known: {', '.join(PRECISIONS)})"
        )
    if precision == "fp32":
        return
    if not runs:
        raise InputError(
            f"precision={precision} is OpenVINO's: add providers=openvino, or leave it out"
        )
    able = openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision.upper() not in able:
        raise InputError(
            f"this CPU has no {precision} (OpenVINO finds {', '.join(able)}): leave precision out"
        )


def unknown_operators(message: str) -> str:
    """Return the operators that an error of reading a graph names, or nothing."""
    match = re.search(r"No conversion rule found for operations?:\s*([^\n]+)", message)
    return match[1].strip() if match else ""


def _last_line(error: BaseException) -> str:
    """Return what went wrong: OpenVINO writes where in its code first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
