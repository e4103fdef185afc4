"""Running an engine: inputs copied into fixed memory, one execution context and CUDA graph a shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

KINDS = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
}
"""TensorRT's name of an element type -> torch's."""


class EngineSession:
    """One engine, called as a session of ``pcs-onnx`` is: inputs by position, outputs as tensors.

    ``rows`` at most in a call. ``graphs`` replays a CUDA graph from the second call of a shape on.
    """

    def __init__(
        self, trt: Any, plan: bytes, names: Sequence[str], rows: int, *, graphs: bool = True
    ) -> None:
        self.trt, self.names, self.rows, self.graphs = trt, list(names), rows, graphs
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self.inner = self.runtime.deserialize_cuda_engine(plan)
        every = [self.inner.get_tensor_name(i) for i in range(self.inner.num_io_tensors)]
        self.outputs = [
            n for n in every if self.inner.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT
        ]
        self.calls = 0
        self._shapes: dict[tuple[Any, ...], _Shaped] = {}

    @property
    def providers(self) -> list[str]:
        """What runs the graph: for reports."""
        return [f"TensorRT {self.trt.__version__}"]

    def __call__(self, batched: Sequence[Tensor], constant: Sequence[Tensor] = ()) -> list[Tensor]:
        """Return the outputs for inputs [b ...] and, behind them, inputs without a batch axis."""
        total = batched[0].shape[0]
        parts = [
            self._run([*(t[i : i + self.rows] for t in batched), *constant])
            for i in range(0, total, self.rows)
        ]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def _run(self, values: Sequence[Tensor]) -> list[Tensor]:
        self.calls += 1
        key = tuple((tuple(v.shape), v.dtype) for v in values)
        if key not in self._shapes:
            self._shapes[key] = _Shaped(self, values)
        where = values[0].device
        return [output.to(where) for output in self._shapes[key](values)]


class _Shaped:
    """An execution context for one set of input shapes. A context holds one, and a graph depends on it."""

    def __init__(self, session: EngineSession, values: Sequence[Tensor]) -> None:
        self.session = session
        self.context = session.inner.create_execution_context()
        self.inputs = [torch.empty_like(v, device="cuda").contiguous() for v in values]
        self.seen: list[tuple[Any, ...] | None] = [None] * len(values)
        for name, place in zip(session.names, self.inputs, strict=True):
            self.context.set_input_shape(name, tuple(place.shape))
            self.context.set_tensor_address(name, place.data_ptr())
        self.results = []
        for name in session.outputs:
            shape = tuple(self.context.get_tensor_shape(name))
            kind = KINDS[session.inner.get_tensor_dtype(name).name]
            place = torch.empty(shape, dtype=kind, device="cuda")
            self.context.set_tensor_address(name, place.data_ptr())
            self.results.append(place)
        self.graph: Any = None
        self.ran = False

    def __call__(self, values: Sequence[Tensor]) -> list[Tensor]:
        for i, (place, value) in enumerate(zip(self.inputs, values, strict=True)):
            # what a subject brings is the same in every step: copied once
            stamp = (id(value), value.data_ptr(), value._version)
            if self.seen[i] is None or self.seen[i][:3] != stamp:  # type: ignore[index]
                place.copy_(value)
                self.seen[i] = (*stamp, value)  # held, so that its id is not given away
        if self.graph is not None:
            self.graph.replay()
        else:
            self.context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
            if self.session.graphs and self.ran:
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self.context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        self.ran = True
        return [place.clone() for place in self.results]
