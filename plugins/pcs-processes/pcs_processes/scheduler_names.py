"""Names of schedulers, and the classes of diffusers that they mean, also as other programs write them.

"DPM++ 2M Karras" (A1111), "dpmpp_2m" (ComfyUI) and "DPMSolverMultistepScheduler" (diffusers) are read: spaces,
hyphens and cases do not count. What the classes are is in diffusers' documentation of its schedulers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pcs_core.errors import CapabilityError, UnknownNameError, nearest

Table = Mapping[str, tuple[str, Mapping[str, Any]]]

KARRAS: Mapping[str, Any] = {"use_karras_sigmas": True}
SDE: Mapping[str, Any] = {"algorithm_type": "sde-dpmsolver++"}

SCHEDULERS: Table = {
    "ddim": ("DDIMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    # few-step networks were distilled at the last times of equal parts
    "ddim-trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "euler-trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler-karras": ("EulerDiscreteScheduler", KARRAS),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "heun-karras": ("HeunDiscreteScheduler", KARRAS),
    "dpm++2m-karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", **KARRAS},
    ),
    "dpm++2m-sde": ("DPMSolverMultistepScheduler", SDE),
    "dpm++2m-sde-karras": ("DPMSolverMultistepScheduler", {**SDE, **KARRAS}),
    "dpm++sde": ("DPMSolverSinglestepScheduler", SDE),
    "dpm++sde-karras": ("DPMSolverSinglestepScheduler", {**SDE, **KARRAS}),
    "unipc-karras": ("UniPCMultistepScheduler", KARRAS),
}
"""Scheduler id -> class of diffusers and what is set on top of the backbone's scheduler config."""
FLOW_SCHEDULERS: Table = {
    "ddim": ("FlowMatchEulerDiscreteScheduler", {}),
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
}
"""Of networks that predict flow. "ddim", the usual default, is the same solver there as "euler"."""
TOKEN_SCHEDULES: Mapping[str, str] = {
    "ddim": "",
    "amused": "",
    "cosine": "cosine",
    "linear": "linear",
}
"""Scheduler id -> masking schedule. There is one scheduler: "ddim", the usual default, means it too."""

ALIASES: Mapping[str, str] = {
    "dpm++2m": "dpm++",
    "dpmsolver++": "dpm++",
    "dpmsolvermultistep": "dpm++",
    "k-dpm++2m": "dpm++",
    "dpm++-karras": "dpm++2m-karras",
    "sde-dpmsolver++": "dpm++2m-sde",
    "dpmsolversinglestep": "dpm++sde",
    "euler-ancestral": "euler-a",
    "k-euler": "euler",
    "k-euler-a": "euler-a",
    "k-euler-ancestral": "euler-a",
    "k-heun": "heun",
    "euler-discrete": "euler",
    "euler-ancestral-discrete": "euler-a",
    "heun-discrete": "heun",
    "unipcmultistep": "unipc",
    "flowmatch-euler-discrete": "euler",
    "flowmatch-heun-discrete": "heun",
}
"""What other programs call a scheduler -> its id."""
EXPLODING = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
)
"""Classes whose latents grow with the noise; the network is shown scaled ones."""
BY_TIME = ("DDIMScheduler", "LCMScheduler", "DDPMScheduler")
"""Classes whose levels are those of integer times; those of the others need not be (Karras sigmas)."""
KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "flow": ("of flow matching", FLOW_SCHEDULERS),
    "tokens": ("of tokens", TOKEN_SCHEDULES),
}
"""What a network predicts -> how its schedulers are called, and which they are; others predict noise."""


def plain(name: str) -> str:
    """Return ``name`` without what programs write differently: "DPM++ 2M Karras" -> "dpmpp2mkarras"."""
    letters = re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp"))
    return letters.removesuffix("scheduler")


def scheduler_id(name: str, prediction: str = "epsilon") -> str:
    """Return the id of the scheduler that ``name`` means, of networks that predict ``prediction``.

    Raises
    ------
    UnknownNameError
        No such scheduler; names the nearest.
    CapabilityError
        There is one, and it does not fit what the network predicts; names those that do.
    """
    kind, known = KINDS.get(prediction, ("known", SCHEDULERS))
    if (id := _meant(name, known)) is not None:
        return id
    listing = f"({kind}: {', '.join(known)})"
    for other in (SCHEDULERS, FLOW_SCHEDULERS, TOKEN_SCHEDULES):
        if _meant(name, other) is not None:
            what = {"flow": "flow", "tokens": "tokens"}.get(prediction, "noise")
            raise CapabilityError(
                f"the scheduler {name!r} does not fit a network that predicts {what} {listing}"
            )
    raise UnknownNameError(f"unknown scheduler {name!r}{_nearest(name, known)} {listing}")


def _meant(name: str, known: Iterable[str]) -> str | None:
    ids = {plain(id): id for id in known}
    others = {plain(alias): id for alias, id in ALIASES.items() if id in ids.values()}
    return {**others, **ids}.get(plain(name))


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return the question whether the nearest id was meant; an alias that is near means its id."""
    ids = {plain(id): id for id in known}
    ids = {**{plain(a): id for a, id in ALIASES.items() if id in ids.values()}, **ids}
    near = nearest(plain(name), ids)
    return next((near.replace(repr(k), repr(id)) for k, id in ids.items() if repr(k) in near), near)
