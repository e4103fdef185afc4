"""The order of calls into TensorRT, with a stand-in that records them.

The stand-in builds nothing: these tests say how the module is called, not that an engine comes out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcs_core.errors import CapabilityError
from pcs_tensorrt.building import base_weights, build, merged, refit

PROFILE = {"latents": ((1, 4, 8, 8), (8, 4, 8, 8), (8, 4, 8, 8)), "number": ((), (), ())}


class Named:
    """One name of the stand-in: called, it is recorded; asked for a constant, it gives its name."""

    def __init__(self, owner: RecordingStandIn, name: str) -> None:
        self.owner, self.name = owner, name

    def __getattr__(self, constant: str) -> str:
        return constant

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.owner.calls.append((self.name, args))
        return self.owner.answers.get(self.name, self.owner)


class RecordingStandIn:
    """Records names and arguments of every call; answers with itself. No part of TensorRT."""

    def __init__(self, version: str = "10.15.1", **answers: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers = {
            "parse_from_file": True,
            "build_serialized_network": b"plan",
            "serialize": b"timings",
            "set_named_weights": True,
            "get_all_weights": ["weight"],
            "get_missing_weights": [],
            "refit_cuda_engine": True,
            **answers,
        }
        self.__version__ = version
        self.num_errors = 1

    def __getattr__(self, name: str) -> Any:
        return Named(self, name)

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [args for called, args in self.calls if called == name]


class Flags:
    STRONGLY_TYPED = 1


class NoFlags:
    pass


@pytest.mark.parametrize(("flags", "bits"), [(Flags, 2), (NoFlags, 0)])
def test_building(flags: type, bits: int) -> None:
    trt = RecordingStandIn()
    trt.NetworkDefinitionCreationFlag = flags
    options = {"workspace": 2, "level": 4, "timing_cache": b"old"}
    assert build(trt, Path("x.onnx"), PROFILE, refit=False, **options) == (b"plan", b"timings")
    assert trt.named("create_network") == [(bits,)]  # 10.x is told, 11.x knows no other kind
    order = [name for name, _ in trt.calls]
    calls = ["create_network", "parse_from_file", "create_timing_cache", "set_timing_cache"]
    calls += ["set_shape", "add_optimization_profile", "build_serialized_network", "serialize"]
    places = [order.index(name) for name in calls]
    assert places == sorted(places)
    assert trt.named("set_shape") == [("latents", *PROFILE["latents"])]  # numbers have no shape
    assert trt.named("create_timing_cache") == [(b"old",)]
    assert trt.named("set_memory_pool_limit")[0][1] == 2 << 20
    assert not trt.named("set_flag")  # types stand in the graph: no flag of precision


def test_refit_is_asked_for() -> None:
    trt = RecordingStandIn()
    trt.NetworkDefinitionCreationFlag = NoFlags
    build(trt, Path("x.onnx"), PROFILE, refit=True, workspace=2, level=3)
    assert trt.named("set_flag") == [("REFIT",)]


def test_failures_are_errors() -> None:
    for answers in ({"parse_from_file": False}, {"build_serialized_network": None}):
        trt = RecordingStandIn(**answers)
        trt.NetworkDefinitionCreationFlag = NoFlags
        with pytest.raises(CapabilityError, match="TensorRT 10.15.1"):
            build(trt, Path("x.onnx"), PROFILE, refit=False, workspace=2, level=3)


def test_weights_are_always_the_base_plus_delta() -> None:
    base = {"weight": np.ones((2, 2), dtype=np.float32), "bias": np.zeros(2, dtype=np.float32)}
    a, b = ({"weight": np.full((2, 2), v, dtype=np.float32)} for v in (0.5, -3.0))
    first, other, again = (merged(base, delta) for delta in (a, b, a))
    assert (first["weight"] == again["weight"]).all()  # A, then B, then A gives A
    assert (other["weight"] == -2).all()
    assert (base["weight"] == 1).all()
    assert set(first) == set(base)  # what one artifact changed, the next one puts back
    with pytest.raises(CapabilityError, match="no weight 'x'"):
        merged(base, {"x": a["weight"]})
    with pytest.raises(CapabilityError, match="has shape"):
        merged(base, {"bias": a["weight"]})


def test_refitting_gives_every_weight(folder: Path) -> None:
    base = base_weights(folder / "denoiser.onnx")
    assert set(base) == {"weight"}  # shapes are no weights
    trt = RecordingStandIn()
    refit(trt, object(), base, {})
    assert [args[0] for args in trt.named("set_named_weights")] == ["weight"]
    assert trt.calls[-1][0] == "refit_cuda_engine"
    for answers in (
        {"get_all_weights": ["odd"]},
        {"set_named_weights": False},
        {"get_missing_weights": ["bias"]},
        {"refit_cuda_engine": False},
    ):
        with pytest.raises(CapabilityError):
            refit(RecordingStandIn(**answers), object(), base, {})
