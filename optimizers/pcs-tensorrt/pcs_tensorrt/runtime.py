"""``--engine tensorrt``: a deployment's graphs on TensorRT. All else is the deployment's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.errors import CapabilityError, InputError
from pcs_tensorrt import deployments, engines, keys
from pcs_tensorrt.libraries import HOW, tensorrt
from pcs_tensorrt.profiles import span
from pcs_tensorrt.session import EngineSession

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone


def run(
    backbone: Backbone,
    *,
    pictures: int = 4,
    guided: bool = True,
    fixed: bool = False,
    graphs: bool = True,
    workspace: int = 4096,
    level: int = 3,
    cache: str = "",
) -> Backbone:
    """Return the deployment ``backbone`` with engines in place of ONNX Runtime's sessions.

    Engines are built where the cache has none, which takes minutes. ``pictures`` a call at most;
    ``fixed`` builds for exactly as many. ``graphs`` replays CUDA graphs.

    Raises
    ------
    CapabilityError
        It is no deployment, or a graph cannot be built.
    InputError
        TensorRT or a GPU is missing.
    """
    folder: Any = getattr(backbone, "folder", None)
    if folder is None or not hasattr(backbone, "graphs"):
        raise CapabilityError(
            f"engine 'tensorrt' runs an ONNX deployment, and backbone {backbone.card.id!r} is none: "
            "`pcs export SYSTEM --to onnx --out DIR`, then --deployment DIR"
        )
    deployment = deployments.read(Path(folder))
    chosen = span(deployment, pictures=pictures, guided=guided, fixed=fixed)
    trt = tensorrt()
    check_gpu()
    options = engines.Options(workspace, level, False, cache)
    planned = engines.plans(deployment, chosen, engines.target_of(trt))
    platform = keys.platform(trt)
    for name, plan in planned.items():
        content, _, _ = engines.engine(trt, plan, deployment.dtype, options, platform)
        names = [entry["graph_name"] for entry in plan.graph.inputs]
        graph: Any = backbone.graphs[name]
        graph.session = EngineSession(trt, content, names, chosen.rows[2], graphs=graphs)
    return backbone


def check_gpu() -> None:
    """Refuse a machine without a CUDA device.

    Raises
    ------
    InputError
        There is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"there is no CUDA device here. {HOW}")
