"""Memory settings for computing on a CPU under glibc: keep freed pages, and use huge ones.

A step allocates and frees the same large tensors again and again. By default each of them is mapped
anew, page by page, and every page costs a fault and a translation entry; on virtual machines that is
most of a step. torch reads its setting at its first allocation, so this runs before it is imported.
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _TOP_PAD = -1, -3, -2  # mallopt(3)
_LARGEST = 32 << 20  # glibc refuses a larger mmap threshold
_KEPT = 2**31 - 1


def keep_pages() -> bool:
    """Apply the settings; return whether they took. Elsewhere than on Linux with glibc: no.

    ``PCS_MALLOC=default`` leaves the allocator alone.
    """
    if not sys.platform.startswith("linux") or os.environ.get("PCS_MALLOC") == "default":
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(
        mallopt(option, value)
        for option, value in (
            (_MMAP_THRESHOLD, _LARGEST),
            (_TRIM_THRESHOLD, _KEPT),
            (_TOP_PAD, 64 << 20),
        )
    )
