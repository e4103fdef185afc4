"""Networks that were distilled to draw in a few steps: recognised by their configurations, and said in a fit.

A fit's error asks for what a network of many steps predicts. A few hundred steps of it take the few steps away
again, so what is fitted draws well neither in few steps nor in many (FLUX.1 schnell, LCM, turbo).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

LOGGER = logging.getLogger("pcs")


def draws_in_few_steps(schedule: Mapping[str, Any], denoiser: Mapping[str, Any]) -> bool:
    """Return whether scheduler and denoiser are configured as those of LCM, turbo or FLUX.1 schnell.

    LCM names its scheduler, or is told a guidance by its time; turbo takes its times from the end; schnell is
    told no guidance, on a schedule that does not shift.
    """
    name = str(schedule.get("_class_name", ""))
    trailing = schedule.get("timestep_spacing") == "trailing" and name.startswith("Euler")
    guided = bool(denoiser.get("time_cond_proj_dim"))
    schnell = denoiser.get("guidance_embeds") is False and not schedule.get("use_dynamic_shifting")
    return name == "LCMScheduler" or trailing or guided or schnell


@lru_cache(maxsize=64)  # a fit attaches more than once: say it once
def tell_fit(id: str) -> None:
    """Say that ``id`` is such a network, and what a fit does to it."""
    LOGGER.warning(
        "backbone %r was distilled to draw in a few steps: a fit teaches it what networks of many steps "
        "predict, and takes that away. Fit on the network that it was distilled from, and draw with this one",
        id,
    )
