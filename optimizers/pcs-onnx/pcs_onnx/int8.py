"""A deployment's denoiser in INT8, for CPUs: weights per channel, activations by calibration.

Convolutions and matrix products with constant weights become 8-bit (ONNX Runtime's static
quantization, QDQ form). What an artifact brings (a LoRA's matrices) stays as it is, and so do the
first and the last convolution and the embedding of time, which cost nothing and matter most.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pcs_core.errors import ArtifactError, InputError
from pcs_onnx import manifest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from pcs_onnx.runtime import OnnxBackbone

Feed = Mapping[str, "NDArray[Any]"]
LOGGER = logging.getLogger("pcs")
KINDS = ("Conv", "MatMul")
HELD_OUT = 4
"""Of the recorded calls, every fourth is left out of calibration and measures the error."""


class Recorder:
    """Stands in a session's place and keeps the inputs of every ``every``-th call."""

    def __init__(self, session: Any, every: int) -> None:
        self.session, self.every = session, every
        self.count = 0
        self.feeds: list[Feed] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def __call__(self, batched: Sequence[Tensor], constant: Sequence[Tensor] = ()) -> list[Tensor]:
        """Run the session."""
        if self.count % self.every == 0:
            values = [*batched, *constant]
            self.feeds.append(
                {
                    name: value.detach().cpu().contiguous().numpy().copy()
                    for name, value in zip(self.session.names, values, strict=True)
                }
            )
        self.count += 1
        outputs: list[Tensor] = self.session(batched, constant)
        return outputs


@contextmanager
def recording(backbone: OnnxBackbone, *, every: int = 1) -> Iterator[list[Feed]]:
    """Give a list that fills with what the denoiser is fed while pictures are drawn.

    ``every`` 3 keeps each third step: calibration needs all noise levels, not all steps.
    """
    graph = backbone.graphs["denoiser"]
    session: Any = graph.session
    recorder = Recorder(session, every)
    graph.session = recorder  # type: ignore[assignment]
    try:
        yield recorder.feeds
    finally:
        graph.session = session


def quantize(folder: Path, out: Path, feeds: Sequence[Feed]) -> dict[str, Any]:
    """Write the deployment ``folder`` with an INT8 denoiser to ``out``; return its manifest.

    ``feeds`` are recorded calls of the denoiser (:func:`recording`): every fourth measures the error,
    relative to the largest output, the others set the ranges of activations.

    Raises
    ------
    InputError
        Too few calls were recorded, ``onnx`` is not installed, or no layer can be quantized.
    ArtifactError
        The deployment is damaged, or its denoiser is not in float32.
    """
    facts = manifest.read(folder)
    graph = facts["graphs"]["denoiser"]
    if facts.get("dtype", "float32") != "float32" or "quantization" in graph:
        raise ArtifactError(
            f"{folder}: the denoiser is not in float32: quantize a deployment exported in float32"
        )
    kept = [feed for i, feed in enumerate(feeds) if i % HELD_OUT != HELD_OUT - 1]
    held_out = [feed for i, feed in enumerate(feeds) if i % HELD_OUT == HELD_OUT - 1]
    if not held_out:
        raise InputError(
            f"{len(feeds)} calls of the denoiser were recorded, {HELD_OUT} at least are needed"
        )
    source = folder / graph["file"]
    chosen, left = layers(source)
    if not chosen:
        raise InputError(f"{source}: no convolution and no matrix product has constant weights")
    out.mkdir(parents=True, exist_ok=True)
    for name in facts["files"]:
        if not name.startswith(graph["file"]):
            shutil.copy2(folder / name, out / name)
    LOGGER.info("quantizing %d layers of the denoiser", len(chosen))
    _static(source, out / graph["file"], kept, left)
    error = compare(source, out / graph["file"], held_out)
    denoiser = {
        **graph,
        "max_error": max(error["max"]),
        "quantization": {
            "weights": "int8 per channel, of 7 bits",
            "activations": "uint8 per tensor, ranges by calibration",
            "layers": len(chosen),
            "left": len(left),
            "calls": len(kept),
            "rms_error": float(np.mean(error["rms"])),
        },
    }
    return manifest.write(
        out,
        {
            **{k: v for k, v in facts.items() if k not in ("schema", "files")},
            "graphs": {**facts["graphs"], "denoiser": denoiser},
        },
    )


def layers(file: Path) -> tuple[list[str], list[str]]:
    """Return the names of the nodes to quantize, and those of their kinds that are left.

    Raises
    ------
    InputError
        ``onnx`` is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise InputError("quantizing needs onnx: pip install pcs-onnx[export]") from None
    graph = onnx.load(str(file), load_external_data=False).graph
    constant = {tensor.name for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in KINDS]
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    ends = {*convolutions[:1], *convolutions[-1:]}
    chosen = [n.name for n in nodes if n.input[1] in constant and n.name not in ends]
    taken = set(chosen)
    return chosen, [n.name for n in nodes if n.name not in taken]


def compare(reference: Path, other: Path, feeds: Sequence[Feed]) -> dict[str, list[float]]:
    """Return errors of ``other`` per feed, relative to the reference's largest value and its RMS."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(str(f), options, providers=["CPUExecutionProvider"])
        for f in (reference, other)
    ]
    errors: dict[str, list[float]] = {"max": [], "rms": []}
    for feed in feeds:
        want, have = (np.asarray(s.run(None, dict(feed))[0], dtype=np.float64) for s in sessions)
        gap = have - want
        errors["max"].append(float(np.abs(gap).max() / max(np.abs(want).max(), 1e-12)))
        errors["rms"].append(float(np.sqrt((gap**2).mean() / max((want**2).mean(), 1e-24))))
    return errors


def _static(source: Path, target: Path, feeds: Sequence[Feed], left: Sequence[str]) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            feed = next(self.left, None)
            return None if feed is None else dict(feed)

    quiet, before = logging.getLogger(), logging.getLogger().level
    quiet.setLevel(logging.ERROR)  # it asks for a pre-processing step that changes nothing here
    try:
        quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Without VNNI two products of 8 bits are added in 16 (vpmaddubsw), which 255 * 127 * 2
            # overflows and 255 * 64 * 2 does not. A deployment runs on any CPU, so weights have 7 bits.
            reduce_range=True,
            op_types_to_quantize=list(KINDS),
            nodes_to_exclude=list(left),
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=True,
        )
    finally:
        quiet.setLevel(before)
