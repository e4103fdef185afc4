"""What a scheduler's numbers mean: its latents as the network is shown them, and their level.

The schedulers themselves are a library's; whoever imports it hands them over. ``prediction_type`` is
never changed: feeding x0 to a reconfigured scheduler is wrong for some and refused by others. Latents
are variance preserving, or variance exploding for Euler-like schedulers, whose scaled input is variance
preserving again; or they flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pcs_core.data import Level
from pcs_core.errors import CapabilityError
from pcs_processes.scheduler_names import (
    BY_TIME,
    EXPLODING,
    FLOW_SCHEDULERS,
    SCHEDULERS,
    scheduler_id,
)

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor

    from pcs_processes.flow_matching import FlowMatching


def make_scheduler(
    library: Any, name: str, config: Mapping[str, Any], *, flow: bool = False
) -> Any:
    """Return a fresh scheduler ``name`` of ``library`` (diffusers) with the backbone's noise schedule.

    Raises
    ------
    UnknownNameError
        No such scheduler; names the nearest.
    CapabilityError
        It does not fit the network; or a setting moves the latents inside ``step`` (stochastic churn).
    """
    known = FLOW_SCHEDULERS if flow else SCHEDULERS
    cls, options = known[scheduler_id(name, "flow" if flow else "epsilon")]
    if config.get("s_churn", 0):
        raise CapabilityError(
            "s_churn > 0 moves the latents inside the scheduler's step: set it to 0"
        )
    return getattr(library, cls).from_config(dict(config), **options)


def adds_noise(scheduler: Any) -> bool:
    """Return whether each step of ``scheduler`` adds noise that it draws."""
    kind = type(scheduler).__name__
    return kind in ("LCMScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler") or str(
        scheduler.config.get("algorithm_type", "")
    ).startswith("sde")


class ScheduledSampler:
    """One scheduler for one run of ``steps`` steps. Implements :class:`pcs_core.backbone.Sampler`."""

    def __init__(self, scheduler: Any, name: str, steps: int, device: torch.device) -> None:
        self.scheduler, self.name = scheduler, scheduler_id(name)
        self.scheduler.set_timesteps(steps, device=device)
        kind = type(scheduler).__name__
        self.explodes, self.by_time = kind in EXPLODING, kind in BY_TIME
        self.stochastic = adds_noise(scheduler)

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
        """Return the latents as the network is shown them (variance preserving)."""
        shown: Tensor = self.scheduler.scale_model_input(latents, time)
        return shown

    def hide(self, shown: Tensor, index: int) -> Tensor:
        """Return the scheduler's own latents from shown ones."""
        if not self.explodes:
            return shown
        spread = self.scheduler.sigmas[index].to(shown)
        return shown * (1 + spread.square()).sqrt()

    def level(self, index: int, rows: int) -> Level:
        """Return the level of the shown latents at step ``index``, one entry per row."""
        time = self.times[index]
        if self.by_time:
            alpha_squared = self.scheduler.alphas_cumprod.to(time.device)[time.long()].float()
            alpha, sigma = alpha_squared.sqrt(), (1 - alpha_squared).sqrt()
        else:
            spread = self.scheduler.sigmas[index].float()
            alpha = (1 + spread.square()).rsqrt()
            sigma = spread * alpha
        return Level(
            alpha.reshape(1).expand(rows),
            sigma.reshape(1).expand(rows),
            time.reshape(1).expand(rows),
        )

    def advance(
        self, latents: Tensor, native: Tensor, time: Any, rngs: Sequence[Generator]
    ) -> Tensor:
        """Return the next latents. ``rngs`` serve schedulers that add noise."""
        options = {"generator": list(rngs)} if self.stochastic else {}
        advanced: Tensor = self.scheduler.step(native, time, latents, **options).prev_sample
        return advanced


class FlowSampler:
    """A scheduler of flow matching for one run of ``steps`` steps."""

    def __init__(
        self, scheduler: Any, steps: int, process: FlowMatching, device: torch.device
    ) -> None:
        self.scheduler, self.process = scheduler, process
        self.scheduler.set_timesteps(steps, device=device)

    @property
    def times(self) -> Sequence[Any]:
        """The scheduler's own timesteps."""
        times: Sequence[Any] = self.scheduler.timesteps
        return times

    def start(self, noise: Tensor) -> Tensor:
        """Return the first latents: the noise itself."""
        return noise

    def show(self, latents: Tensor, time: Any) -> Tensor:
        """Return the latents as they are."""
        return latents

    def hide(self, shown: Tensor, index: int) -> Tensor:
        """Return the latents as they are."""
        return shown

    def level(self, index: int, rows: int) -> Level:
        """Return the level at step ``index``, one entry per row."""
        level = self.process.at_sigma(self.scheduler.sigmas[index].float().reshape(1).expand(rows))
        return level._replace(time=self.times[index].reshape(1).expand(rows))

    def advance(
        self, latents: Tensor, native: Tensor, time: Any, rngs: Sequence[Generator]
    ) -> Tensor:
        """Return the next latents. ``rngs`` serve a scheduler that adds noise."""
        noisy = self.scheduler.config.get("stochastic_sampling", False)
        options = {"generator": list(rngs)} if noisy else {}
        advanced: Tensor = self.scheduler.step(native, time, latents, **options).prev_sample
        return advanced
