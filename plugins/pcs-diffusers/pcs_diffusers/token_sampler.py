"""diffusers' scheduler of masked tokens as a sampler: one copy per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import Level
from pcs_processes.scheduler_names import TOKEN_SCHEDULES, scheduler_id

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_processes import MaskedTokens


class TokenSampler:
    """AmusedScheduler for one run of ``steps`` steps; the surest tokens are kept at each."""

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        steps: int,
        process: MaskedTokens,
        device: torch.device,
    ) -> None:
        from diffusers import AmusedScheduler

        schedule = TOKEN_SCHEDULES[scheduler_id(name, "tokens")]
        chosen = {"masking_schedule": schedule} if schedule else {}
        self.scheduler = AmusedScheduler.from_config(dict(config), **chosen)
        self.scheduler.set_timesteps(steps, device=device)
        self.process, self.steps, self.device = process, steps, device

    @property
    def times(self) -> Sequence[Any]:
        """The scheduler's own timesteps, counting down to 0."""
        times: Sequence[Any] = self.scheduler.timesteps
        return times

    def start(self, noise: Tensor) -> Tensor:
        """Return tokens [b 1 h w], all masked."""
        return torch.full_like(noise, float(self.process.mask_id))

    def show(self, latents: Tensor, time: Any) -> Tensor:
        """Return the latents as they are."""
        return latents

    def hide(self, shown: Tensor, index: int) -> Tensor:
        """Return the latents as they are."""
        return shown

    def level(self, index: int, rows: int) -> Level:
        """Return the level at step ``index``: the same time from all masked to none."""
        fraction = torch.full((rows,), 1 - index / self.steps, device=self.device)
        return self.process.level(self.process.at(fraction))

    def advance(
        self, latents: Tensor, native: Tensor, time: Any, rngs: Sequence[Generator]
    ) -> Tensor:
        """Return the next tokens, each row drawn by its own generator."""
        following = []
        for row, logits, rng in zip(latents, native, rngs, strict=True):
            ids = row.round().long()
            step = self.scheduler.step(logits[None].float(), time, ids, generator=rng)
            following.append(step.prev_sample.to(latents.dtype))
        return torch.stack(following)
