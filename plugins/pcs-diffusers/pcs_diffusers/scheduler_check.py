"""Whether a family of this distribution draws with a scheduler, asked before any network is opened."""

from __future__ import annotations

from pcs_processes.scheduler_names import scheduler_id

PREDICTIONS = {
    "sd": "epsilon",
    "sdxl": "epsilon",
    "video": "epsilon",
    "animatediff": "epsilon",
    "sd3": "flow",
    "flux": "flow",
    "flux-kontext": "flow",
    "tokens": "tokens",
}
"""Family -> what its schedulers step: noise (v too), flow or tokens."""


def check_scheduler(name: str, family: str) -> str:
    """Return the id that ``name`` means on ``family``; of a family of other plugins ``name`` itself.

    Raises
    ------
    UnknownNameError
        No such scheduler; names the nearest.
    CapabilityError
        It does not fit the family; names those that do.
    """
    return scheduler_id(name, PREDICTIONS[family]) if family in PREDICTIONS else name
