"""diffusers' schedulers for a deployment: no model class of diffusers is imported.

A deployment must run without the plugin whose backbone was exported, so the conventions of levels are
written down here again: variance preserving, or variance exploding for Euler, whose scaled input is
variance preserving again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import Level
from pcs_core.errors import UnknownNameError, nearest

if TYPE_CHECKING:
    from torch import Generator, Tensor

SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "ddim-trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "euler-trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
}
"""Scheduler id -> diffusers class and what is set on top of the exported config."""
BY_SIGMA = ("euler", "euler-trailing", "dpm++", "unipc")
"""Their levels need not be those of integer times."""


class DeployedSampler:
    """One scheduler for one run of ``steps`` steps."""

    def __init__(self, name: str, config: Mapping[str, Any], steps: int) -> None:
        import diffusers

        if name not in SCHEDULERS:
            raise UnknownNameError(
                f"unknown scheduler {name!r}{nearest(name, SCHEDULERS)} "
                f"(known: {', '.join(SCHEDULERS)})"
            )
        cls, options = SCHEDULERS[name]
        self.name = name
        self.scheduler: Any = getattr(diffusers, cls).from_config(dict(config), **options)
        self.scheduler.set_timesteps(steps)

    @property
    def times(self) -> Sequence[Any]:
        """The scheduler's own timesteps."""
        times: Sequence[Any] = self.scheduler.timesteps
        return times

    def start(self, noise: Tensor) -> Tensor:
        """Return the first latents from unit noise [b c h w]."""
        started: Tensor = noise * self.scheduler.init_noise_sigma
        return started

    def show(self, latents: Tensor, time: Any) -> Tensor:
        """Return the latents as the network is shown them."""
        shown: Tensor = self.scheduler.scale_model_input(latents, time)
        return shown

    def hide(self, shown: Tensor, index: int) -> Tensor:
        """Return the scheduler's own latents from shown ones."""
        if self.name not in ("euler", "euler-trailing"):
            return shown
        return shown * (1 + self.scheduler.sigmas[index].to(shown).square()).sqrt()

    def level(self, index: int, rows: int) -> Level:
        """Return the level of the shown latents at step ``index``, one entry per row."""
        time = self.times[index]
        if self.name in BY_SIGMA:
            spread = self.scheduler.sigmas[index].float()
            alpha = (1 + spread.square()).rsqrt()
            sigma = spread * alpha
        else:
            squared = self.scheduler.alphas_cumprod[time.long()].float()
            alpha, sigma = squared.sqrt(), (1 - squared).sqrt()
        return Level(*(torch.as_tensor(t).reshape(1).expand(rows) for t in (alpha, sigma, time)))

    def advance(
        self, latents: Tensor, native: Tensor, time: Any, rngs: Sequence[Generator]
    ) -> Tensor:
        """Return the next latents. ``rngs`` serve schedulers that add noise."""
        noisy = {"generator": list(rngs)} if self.name in ("lcm", "ddpm") else {}
        advanced: Tensor = self.scheduler.step(native, time, latents, **noisy).prev_sample
        return advanced
