"""Networks that were distilled to draw in a few steps: recognised by configuration or name, and said in a fit.

A fit's error asks for what a network of many steps predicts. A few hundred steps of it take the few steps away
again, so what is fitted draws well neither in few steps nor in many (FLUX.1 schnell, LCM, turbo).

The configurations of SD 3.5 Large Turbo, of SDXL-Lightning and of Hyper-SD's networks are those of the networks
that they were distilled from: only their names tell them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePath
from typing import Any

LOGGER = logging.getLogger("pcs")
NAMES = re.compile(
    r"(?<![a-z])(turbo|lightning|lcm|schnell|dmd2?|hyper-?(sd|flux)\w*)(?![a-z])", re.IGNORECASE
)
"""Words of a network's name that say so."""


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


def named_after_few_steps(*names: str) -> str:
    """Return the first word that says so in the last parts of ``names`` (ids, folders, files), or ""."""
    for name in names:
        if match := NAMES.search(PurePath(name).name):
            return match[0]
    return ""


@lru_cache(maxsize=64)  # a fit attaches more than once: say it once
def tell_fit(id: str, word: str = "") -> None:
    """Say that ``id`` is such a network, and what a fit does to it; ``word`` of its name where that tells."""
    LOGGER.warning(
        "backbone %r was distilled to draw in a few steps%s: a fit teaches it what networks of many steps "
        "predict, and takes that away. Fit on the network that it was distilled from, and draw with this one",
        id,
        f" (its name says {word!r}; its configuration does not)" if word else "",
    )
