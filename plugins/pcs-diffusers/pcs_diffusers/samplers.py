"""diffusers' schedulers as samplers: one copy per run, read as pcs-processes reads schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import diffusers
import torch

from pcs_processes import samplers
from pcs_processes.scheduler_names import SCHEDULERS

if TYPE_CHECKING:
    from pcs_processes import FlowMatching

__all__ = ["SCHEDULERS", "DiffusersSampler", "EvenFlowSampler", "FlowSampler", "make_scheduler"]


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """Return a fresh diffusers scheduler ``name`` with the backbone's noise schedule."""
    return samplers.make_scheduler(diffusers, name, config)


class DiffusersSampler(samplers.ScheduledSampler):
    """One scheduler for one run of ``steps`` steps."""

    def __init__(
        self, name: str, config: Mapping[str, Any], steps: int, device: torch.device
    ) -> None:
        super().__init__(make_scheduler(name, config), name, steps, device)


class FlowSampler(samplers.FlowSampler):
    """diffusers' scheduler of flow matching for one run of ``steps`` steps."""

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        steps: int,
        process: FlowMatching,
        device: torch.device,
    ) -> None:
        scheduler = samplers.make_scheduler(diffusers, name, config, flow=True)
        super().__init__(scheduler, steps, process, device)


class EvenFlowSampler(FlowSampler):
    """One whose levels are equal parts from 1 to 1 / steps before they are shifted, as in FLUX's pipeline.

    ``mu`` is what a schedule that shifts with the picture's size is told of it.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        steps: int,
        process: FlowMatching,
        device: torch.device,
        *,
        mu: float | None = None,
    ) -> None:
        scheduler = samplers.make_scheduler(diffusers, name, config, flow=True)
        if not isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
            # it places its own levels, with one shift: that of this size
            super().__init__(name, {**config, "shift": process.shift}, steps, process, device)
            return
        self.scheduler, self.process = scheduler, process
        levels = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).tolist()
        scheduler.set_timesteps(sigmas=levels, device=device, mu=mu)
