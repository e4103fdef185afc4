"""ONNX Runtime sessions: providers chosen by device, inputs by position, outputs as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

CPU = "CPUExecutionProvider"
WANTED = {"cpu": (CPU,), "cuda": ("CUDAExecutionProvider", CPU)}
"""Device type -> execution providers, the best first."""


def providers(device: str) -> list[str]:
    """Return the execution providers for ``device``.

    Raises
    ------
    InputError
        This installation of ONNX Runtime has none for it.
    """
    import onnxruntime

    kind = device.split(":")[0]
    there = onnxruntime.get_available_providers()
    wanted = WANTED.get(kind, ())
    if not wanted or wanted[0] not in there:
        raise InputError(
            f"ONNX Runtime here has no execution provider for device {device!r} (it has "
            f"{', '.join(there)}): use --device cpu"
            + (", or install onnxruntime-gpu in place of onnxruntime" if kind == "cuda" else "")
        )
    return [name for name in wanted if name in there]


class Session:
    """One graph. ``rows`` at most in a call: a diffusers network decides by batch sizes of 64."""

    def __init__(self, file: Path, device: str, rows: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.inner: Any = onnxruntime.InferenceSession(
            str(file), options, providers=providers(device)
        )
        self.names = [i.name for i in self.inner.get_inputs()]
        self.rows = rows
        self.calls = 0

    @property
    def providers(self) -> list[str]:
        """Those that the session really uses."""
        return list(self.inner.get_providers())

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
        feed = {
            name: value.detach().cpu().contiguous().numpy()
            for name, value in zip(self.names, values, strict=True)
        }
        return [torch.from_numpy(found) for found in self.inner.run(None, feed)]
