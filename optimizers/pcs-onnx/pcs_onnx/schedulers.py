"""diffusers' schedulers for a deployment: no model class of diffusers is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pcs_processes import (
    FlowMatching,
    FlowSampler,
    ScheduledSampler,
    VariancePreserving,
    make_scheduler,
)

if TYPE_CHECKING:
    import torch

    from pcs_core.backbone import Process, Sampler


def sampler(
    name: str, config: Mapping[str, Any], steps: int, process: Process, device: torch.device
) -> Sampler:
    """Return a fresh sampler of ``steps`` steps for what ``process`` speaks."""
    import diffusers

    if isinstance(process, FlowMatching):
        scheduler = make_scheduler(diffusers, name, config, flow=True)
        return FlowSampler(scheduler, steps, process, device)
    return ScheduledSampler(make_scheduler(diffusers, name, config), name, steps, device)


def process(prediction: str, config: Mapping[str, Any], device: torch.device) -> Process:
    """Return what the network speaks, from the scheduler's configuration."""
    import diffusers

    if prediction == "flow":
        return FlowMatching(
            float(config.get("shift", 1.0)), int(config.get("num_train_timesteps", 1000))
        )
    alphas = make_scheduler(diffusers, "ddim", config).alphas_cumprod
    return VariancePreserving(alphas.to(device), prediction)  # type: ignore[arg-type]
