"""The machine: what it is, how fast it multiplies matrices, and how many threads suit it."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from inference.rounds import timed

PACKAGES = ("torch", "diffusers", "transformers", "onnxruntime", "onnx", "onnxscript", "openvino")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
VNNI = ("avx512_vnni", "amx_int8")
"""CPU flags that make INT8 worth its while."""
SIDE = {"cpu": 1536, "cuda": 8192}
"""Side of the square matrices that are multiplied."""


def versions() -> dict[str, str]:
    """Return the versions of what is measured, and Python's."""
    numbers = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers


def describe(threads: int) -> dict[str, Any]:
    """Return processor, cores, threads, memory, flags, load and GPU."""
    cpu = _cpu()
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": cpu.get("model name", platform.processor() or platform.machine()),
        "cores": cores(),
        "threads": threads,
        "flags": [f for f in FLAGS if f in cpu.get("flags", "").split()],
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": None,
    }
    pages = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    if all(name in os.sysconf_names for name in pages):
        facts["memory_gib"] = round(os.sysconf(pages[0]) * os.sysconf(pages[1]) / 2**30, 1)
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
    return facts


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def matmul_rate(dtype: str, device: str = "cpu", rounds: int = 5, side: int = 0) -> float:
    """Return the FLOP a second of a square matrix product in ``dtype``, the median of ``rounds``.

    ``int8`` counts its multiplications and additions alike, and accumulates in int32.
    """
    side = side or SIDE[device.split(":")[0]]
    rng = torch.Generator(device).manual_seed(0)
    if dtype == "int8":
        a, b = (
            torch.randint(-128, 127, (side, side), generator=rng, device=device, dtype=torch.int8)
            for _ in range(2)
        )
        product: Callable[[], Any] = lambda: torch._int_mm(a, b)  # noqa: E731
    else:
        kind = getattr(torch, dtype)
        x, y = (torch.randn(side, side, generator=rng, device=device).to(kind) for _ in range(2))
        product = lambda: x @ y  # noqa: E731
    product()
    seconds = statistics.median(timed(product, device) for _ in range(rounds))
    return 2 * side**3 / seconds


def rates(dtypes: tuple[str, ...], device: str = "cpu", side: int = 0) -> dict[str, float]:
    """Return the rate of each dtype that can be multiplied here, in GFLOP a second."""
    by_dtype = {}
    for dtype in dtypes:
        try:
            by_dtype[dtype] = round(matmul_rate(dtype, device, side=side) / 1e9, 1)
        except RuntimeError:  # a kernel that this build or device lacks
            continue
    return by_dtype


def best_threads(work: Callable[[], Any], rounds: int = 3) -> dict[int, float]:
    """Set the number of threads at which ``work`` is fastest; return the seconds of each tried."""
    limit = cores()
    tried = sorted({1, max(1, limit // 2), limit})
    seconds = {}
    for threads in tried:
        torch.set_num_threads(threads)
        work()
        seconds[threads] = statistics.median(timed(work) for _ in range(rounds))
    torch.set_num_threads(min(seconds, key=lambda n: seconds[n]))
    return seconds


def _cpu() -> dict[str, str]:
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return {}
    first = file.read_text("utf-8", "replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
