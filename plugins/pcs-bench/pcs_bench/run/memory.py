"""Peak memory of a piece of work."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Peak:
    """``bytes`` at the peak; ``what`` was measured: "device" or "process" memory, or "" for unknown."""

    bytes: int = 0
    what: str = ""


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """Measure the peak during the block: of the CUDA device, else of this process (resident)."""
    peak = Peak()
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes, peak.what = torch.cuda.max_memory_allocated(device), "device"
        return
    fresh = _forget_peak()
    yield peak
    high_water = _high_water() if fresh else 0
    if high_water:
        peak.bytes, peak.what = high_water, "process"


def _forget_peak() -> bool:
    # Linux counts the peak anew after this; elsewhere a peak would be that of all jobs before
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return sys.platform == "linux"


def _high_water() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0
