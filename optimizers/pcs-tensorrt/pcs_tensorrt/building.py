"""From an ONNX file to an engine, and other weights into an engine. One code path for 10.x and 11.x.

The module ``tensorrt`` is an argument, so that nothing here imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from numpy import ndarray

    from pcs_tensorrt.profiles import Shapes


def build(
    trt: Any,
    onnx: Path,
    profile: Mapping[str, Shapes],
    *,
    workspace: int,
    level: int,
    refit: bool,
    timing_cache: bytes = b"",
) -> tuple[bytes, bytes]:
    """Return the engine's plan and the timing cache with what this build measured.

    ``workspace`` in MiB. The network is strongly typed: 10.x needs the flag, 11.x has no other kind.

    Raises
    ------
    CapabilityError
        The parser refuses the graph, or no engine comes out.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    # by file: weights lie beside the graph, and 2 GB are too much for one message
    if not parser.parse_from_file(str(onnx)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise CapabilityError(f"TensorRT {trt.__version__} does not parse {onnx}: {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace << 20)
    config.builder_optimization_level = level
    if refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    cache = config.create_timing_cache(timing_cache)
    config.set_timing_cache(cache, ignore_mismatch=False)
    shapes = builder.create_optimization_profile()
    for name, (least, usual, largest) in profile.items():
        if usual:  # a number without axes has no shape to choose
            shapes.set_shape(name, least, usual, largest)
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CapabilityError(f"TensorRT {trt.__version__} builds no engine of {onnx}: see its log")
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def merged(base: Mapping[str, ndarray], delta: Mapping[str, ndarray]) -> dict[str, ndarray]:
    """Return all weights for one artifact: base + delta by name, the base's own elsewhere.

    Always from the base, never from what an engine holds now: A, then B, then A must give A.

    Raises
    ------
    CapabilityError
        A delta for a weight that the base has not, or of another shape.
    """
    for name, value in delta.items():
        if name not in base:
            raise CapabilityError(f"the graph has no weight {name!r} to refit")
        if base[name].shape != value.shape:
            raise CapabilityError(
                f"{name!r} has shape {value.shape}, the graph's {base[name].shape}"
            )
    return {
        name: (value + delta[name]).astype(value.dtype) if name in delta else value
        for name, value in base.items()
    }


def refit(trt: Any, engine: Any, base: Mapping[str, ndarray], delta: Mapping[str, ndarray]) -> None:
    """Put base + delta into ``engine``, every weight that can be refitted.

    Raises
    ------
    CapabilityError
        The engine has a weight that the graph has not, or refuses one.
    """
    weights = merged(base, delta)
    refitter = trt.Refitter(engine, trt.Logger(trt.Logger.WARNING))
    for name in refitter.get_all_weights():
        if name not in weights:
            raise CapabilityError(f"the engine's weight {name!r} is not in the graph: build anew")
        if not refitter.set_named_weights(name, trt.Weights(weights[name])):
            raise CapabilityError(f"the engine refuses the weight {name!r}")
    if missing := list(refitter.get_missing_weights()):
        raise CapabilityError(f"the engine wants {missing[0]!r} too, which is not given")
    if not refitter.refit_cuda_engine():
        raise CapabilityError("TensorRT could not refit the engine: see its log")


def base_weights(onnx: Path) -> dict[str, ndarray]:
    """Return the floating constants of the graph in ``onnx`` by name."""
    import numpy
    from onnx import load, numpy_helper

    model = load(str(onnx))
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    return {name: v for name, v in constants.items() if numpy.issubdtype(v.dtype, numpy.floating)}
