"""How the processor's threads wait for each other, and how many there are; said before torch is loaded.

torch shares a product out over threads of OpenMP, and each product ends when the slowest of them does. By
default those that are done spin: they keep a core busy with waiting. Where another program takes a core, they
keep it from the thread that they wait for, and each of the thousands of products of a step lasts as long as the
system's turn: a step of 0.2 s took 14. Threads that sleep while they wait give the core up at once.

The number of threads does not follow how busy the machine is: another number adds in another order, and a fit
would depend on what ran beside it.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

POLICY, COUNT = "OMP_WAIT_POLICY", "OMP_NUM_THREADS"
SLEEP = "PASSIVE"
QUOTAS = (
    ("/sys/fs/cgroup/cpu.max", None),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Files in which Linux says how much of the processor a container has, of both versions of its groups."""


def set_up_threads() -> None:
    """Let threads sleep while they wait, and have no more of them than a container's share of the processor.

    What the user's environment says stays. Where torch is loaded already it is too late, and nothing is set.
    """
    if "torch" in sys.modules:
        return
    os.environ.setdefault(POLICY, SLEEP)
    share = quota()
    if share is not None and share < cores():
        os.environ.setdefault(COUNT, str(share))


def sleep_while_waiting() -> bool:
    """Return whether the environment asks for threads that sleep while they wait."""
    return os.environ.get(POLICY, "").upper() == SLEEP


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota() -> int | None:
    """Return the whole cores of a container's share, rounded up, at least 1; None where there is no bound."""
    for limit, period in QUOTAS:
        try:
            words = Path(limit).read_text(encoding="ascii").split()
            words += [] if period is None else Path(period).read_text(encoding="ascii").split()
            microseconds, each = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or "max": no bound
            continue
        if microseconds > 0 and each > 0:
            return max(1, math.ceil(microseconds / each))
    return None
