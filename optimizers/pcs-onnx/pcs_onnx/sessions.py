"""ONNX Runtime sessions: inputs and outputs bound where they lie, by position."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pcs_core.errors import InputError
from pcs_onnx.providers import configured, providers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

ELEMENTS = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.int64: np.int64,
    torch.bool: np.bool_,
}
TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


class Session:
    """One graph. ``rows`` at most in a call: a diffusers network decides by batch sizes of 64.

    Tensors are bound by their addresses and never copied; the outputs' shapes are learned in the first
    call of a shape. ``calls`` counts runs of the graph.
    """

    def __init__(
        self,
        file: Path,
        device: str,
        rows: int,
        *,
        preferred: Sequence[str] = (),
        disabled: Sequence[str] = (),
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        names = providers(device, preferred)
        self.inner: Any = onnxruntime.InferenceSession(
            str(file),
            options,
            providers=configured(names, device),
            **({"disabled_optimizers": list(disabled)} if disabled else {}),
        )
        if self.providers[0] != names[0]:  # it falls back to the CPU without an error
            raise InputError(
                f"ONNX Runtime has {names[0]} and cannot start it (it took "
                f"{', '.join(self.providers)}): its libraries are missing or of another version"
            )
        self.names = [i.name for i in self.inner.get_inputs()]
        self.outputs = [o.name for o in self.inner.get_outputs()]
        self.kinds = [TYPES[o.type] for o in self.inner.get_outputs()]
        self.device = torch.device(device)
        self.rows = rows
        self.calls = 0
        self._shapes: dict[tuple[Any, ...], list[tuple[int, ...]]] = {}

    @property
    def providers(self) -> list[str]:
        """Those that the session really uses."""
        return list(self.inner.get_providers())

    def __call__(self, batched: Sequence[Tensor], constant: Sequence[Tensor] = ()) -> list[Tensor]:
        """Return the outputs for inputs [b ...] and, behind them, inputs without a batch axis."""
        return by_rows(self._run, self.rows, batched, constant)

    def _run(self, values: Sequence[Tensor]) -> list[Tensor]:
        self.calls += 1
        inputs = [value.detach().to(self.device).contiguous() for value in values]
        binding = self.inner.io_binding()
        where, index = self.device.type, self.device.index or 0
        for name, value in zip(self.names, inputs, strict=True):
            kind, shape = ELEMENTS[value.dtype], tuple(value.shape)
            binding.bind_input(name, where, index, kind, shape, value.data_ptr())
        known = self._shapes.get(key := tuple(value.shape for value in inputs))
        if known is None:
            for name in self.outputs:
                binding.bind_output(name, "cpu")
            self.inner.run_with_iobinding(binding)
            outputs = [torch.from_numpy(o.copy()) for o in binding.copy_outputs_to_cpu()]
            self._shapes[key] = [tuple(t.shape) for t in outputs]
            return [t.to(self.device) for t in outputs]
        made = [
            torch.empty(shape, dtype=kind, device=self.device)
            for shape, kind in zip(known, self.kinds, strict=True)
        ]
        for name, value in zip(self.outputs, made, strict=True):
            kind, shape = ELEMENTS[value.dtype], tuple(value.shape)
            binding.bind_output(name, where, index, kind, shape, value.data_ptr())
        self.inner.run_with_iobinding(binding)
        return made


def by_rows(
    run: Callable[[Sequence[Tensor]], list[Tensor]],
    rows: int,
    batched: Sequence[Tensor],
    constant: Sequence[Tensor],
) -> list[Tensor]:
    """Return what ``run`` gives, called with ``rows`` of the batch at most, the parts' outputs joined."""
    total = batched[0].shape[0]
    if total <= rows:
        return run([*batched, *constant])
    parts = [run([*(t[i : i + rows] for t in batched), *constant]) for i in range(0, total, rows)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]
