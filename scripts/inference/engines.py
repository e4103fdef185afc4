"""The engines side by side: each is a backbone, so each runs the same loop on the same artifact."""

from __future__ import annotations

import gc
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inference.artifacts import Prepared, prompts_of
from inference.rows import BF16, COMPILE, EAGER, INT8, ONNX, TWINS, Side
from inference.steps import Step
from pcs_core import export, open_backbone, open_engine, sample
from pcs_core.errors import InputError, PcsError
from pcs_engine.opening import open_deployment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcs_core.backbone import Backbone

CALIBRATION_EVERY = 3
"""Every third step of a drawing calibrates."""


@dataclass(frozen=True, slots=True)
class Open:
    """An engine that is ready, and what making it so took."""

    side: Side
    backbone: Backbone
    folder: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def eager(name: str) -> Open:
    """Open the backbone itself."""
    return Open(EAGER, open_backbone(name))


def bf16(name: str) -> Open:
    """Open the backbone in bfloat16: what a CPU with such instructions offers without an export.

    Raises
    ------
    InputError
        It is built in its own dtype, whatever one asks for.
    """
    opened = open_backbone(name, dtype=torch.bfloat16)
    if opened.dtype != torch.bfloat16:
        raise InputError(f"backbone {name!r} opens in {opened.dtype} only")
    return Open(BF16, opened)


def compiled(build: Callable[[], Backbone], backend: str = "inductor") -> Open:
    """Open a copy of the backbone, newly built, under ``--engine compile``.

    Raises
    ------
    PcsError
        No installed plugin holds that engine.
    """
    return Open(COMPILE, open_engine(build(), COMPILE.engine, backend=backend))


def onnx(
    prepared: Prepared, backbone: Backbone, root: Path, *, fresh: bool, tolerance: float = 0.0
) -> Open:
    """Export the system of ``prepared``, or open what an earlier run with the same versions wrote."""
    folder = root / f"{backbone.card.id}-{prepared.recipe.id}-{_key(prepared, backbone)}"
    seconds = None
    if fresh and folder.exists():
        shutil.rmtree(folder)
    opened = _reopen(folder)
    if opened is None:
        begun = time.perf_counter()
        shutil.rmtree(folder, ignore_errors=True)
        export(
            prepared.recipe,
            folder,
            to="onnx",
            backbone=backbone,
            adapter=prepared.adapter,
            tolerance=tolerance,
        )
        seconds = time.perf_counter() - begun
        opened = open_backbone(folder)
    gc.collect()
    return Open(ONNX, opened, folder, {"export_seconds": seconds})


def int8(source: Open, drawing: Callable[[], None], every: int = CALIBRATION_EVERY) -> Open:
    """Quantize the denoiser of an ONNX deployment by what ``drawing`` feeds it."""
    from pcs_onnx.int8 import quantize, recording

    assert source.folder is not None
    folder = source.folder.with_name(source.folder.name + "-int8")
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.perf_counter()
    backbone: Any = source.backbone
    with recording(backbone, every=every) as feeds:
        drawing()
    facts = quantize(source.folder, folder, feeds)["graphs"]["denoiser"]
    return Open(
        INT8,
        open_backbone(folder),
        folder,
        {
            "quantize_seconds": time.perf_counter() - begun,
            "step_error": facts["max_error"],
            **facts["quantization"],
        },
    )


def openvino(source: Open) -> Open:
    """Open the folder of a deployment once more, on OpenVINO.

    Raises
    ------
    InputError
        The package is not installed.
    """
    side = TWINS[source.side.label]
    opened = open_deployment(source.folder, side.engine, providers=[side.provider])
    return Open(side, opened, source.folder)


def with_openvino(opened: Sequence[Open], skip: Callable[[str, str], None]) -> list[Open]:
    """Return ``opened`` and behind them, of each deployment, the same on OpenVINO."""
    deployed = [one for one in opened if one.side.label in TWINS]
    openers = [(TWINS[one.side.label].label, partial(openvino, one)) for one in deployed]
    return [*opened, *attempts(openers, skip)]


def drawings(
    source: Open, prepared: Prepared, *, steps: int, prompts: int = 2
) -> Callable[[], None]:
    """Return what draws two subjects of ``prepared`` at the first ``prompts`` of their prompts."""

    def draw() -> None:
        for artifact in prepared.artifacts[:2]:
            for number, prompt in enumerate(prompts_of(artifact)[:prompts]):
                sample(artifact, source.backbone, prompt, count=2, seed=100 + number, steps=steps)

    return draw


def single_steps(source: Open, prepared: Prepared, count: int = 4) -> Callable[[], None]:
    """Return what evaluates ``count`` steps: where a whole drawing takes minutes."""

    def evaluate() -> None:
        artifact = prepared.artifacts[0]
        for number in range(count):
            with Step(source.backbone, artifact, prompts_of(artifact)[0], 1, seed=number) as step:
                step()

    return evaluate


class Counting:
    """Counts exports, ONNX Runtime sessions, and compilations of OpenVINO and Dynamo while in force."""

    def __init__(self) -> None:
        self.exports = 0
        self.rebuilds = 0

    def __enter__(self) -> Counting:
        import onnxruntime
        import openvino

        self._runtime, self._exporter, self._core = onnxruntime, torch.onnx, openvino.Core
        self._before = (
            onnxruntime.InferenceSession,
            torch.onnx.export,
            openvino.Core.compile_model,
        )
        self._graphs = _graphs()
        session, exporter, compiler = self._before

        def opened(*args: Any, **options: Any) -> Any:
            self.rebuilds += 1
            return session(*args, **options)

        def exported(*args: Any, **options: Any) -> Any:
            self.exports += 1
            return exporter(*args, **options)

        def compiled(*args: Any, **options: Any) -> Any:
            self.rebuilds += 1
            return compiler(*args, **options)

        onnxruntime.InferenceSession, torch.onnx.export = opened, exported
        openvino.Core.compile_model = compiled
        return self

    def __exit__(self, *_: object) -> None:
        self._runtime.InferenceSession, self._exporter.export, compiler = self._before
        self._core.compile_model = compiler
        self.rebuilds += _graphs() - self._graphs


def _graphs() -> int:
    """Return how many graphs Dynamo has compiled so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _reopen(folder: Path) -> Backbone | None:
    if not (folder / "manifest.json").is_file():
        return None
    try:
        return open_backbone(folder)
    except PcsError:
        return None


def _key(prepared: Prepared, backbone: Backbone) -> str:
    """Return what a deployment depends on, as a short digest."""
    import pcs_onnx

    known = hashlib.sha256(backbone.card.hash.encode())
    known.update(repr(prepared.recipe.document).encode())
    for name in ("torch", "onnx", "onnxscript", "onnxruntime"):
        known.update(version(name).encode())
    for file in sorted(Path(pcs_onnx.__file__).parent.glob("*.py")):
        known.update(file.read_bytes())
    for name, tensor in sorted((prepared.adapter.tensors if prepared.adapter else {}).items()):
        known.update(name.encode())
        known.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return known.hexdigest()[:12]


def attempts(
    openers: Sequence[tuple[str, Callable[[], Open]]], skip: Callable[[str, str], None]
) -> Iterator[Open]:
    """Open each engine; one that cannot be had is noted and left out, for the others' sake."""
    for label, function in openers:
        try:
            opened = function()
        except Exception as error:
            skip(f"engine {label}", one_line(error))
            continue
        yield opened


def one_line(error: BaseException) -> str:
    """Return what went wrong on one line."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"[:300]
