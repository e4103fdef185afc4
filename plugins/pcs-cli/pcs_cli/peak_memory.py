"""The most memory that a command has taken so far: a fit and a drawing say it when they end."""

from __future__ import annotations

import sys


def peak_memory() -> str:
    """Return it in words: of the GPU where one was used, and of the process."""
    import torch

    peaks = []
    if torch.cuda.is_initialized():
        peaks.append(f"{_gigabytes(torch.cuda.max_memory_allocated())} on the GPU")
    if (process := process_peak()) is not None:
        peaks.append(
            f"{_gigabytes(process)} in all" if not peaks else f"{_gigabytes(process)} beside it"
        )
    return ", ".join(peaks) or "not measured on this system"


def process_peak() -> int | None:
    """Return the most bytes that this process held in memory, None where the system does not count them."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes
    return int(most) if sys.platform == "darwin" else int(most) * 1024


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
