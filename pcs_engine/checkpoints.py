"""Checkpoints of a fit: parameters, optimizer, random states, position. Bit-equal on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import InputError
from pcs_engine.optimizers import optimizer_tensors, restore_optimizer

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from pcs_core.data import Fusion

SECONDS = 10.0
"""Least time between two checkpoints within a phase."""

BEFORE = {"precision": "fp32", "number of processes": 1}
"""What a checkpoint was of that was written before it said so."""


class Checkpoints:
    """Writes and restores the state of one fit under ``work`` (None: does nothing).

    Of several processes whose states are the same all read one file, and the one that ``writes`` writes it.
    """

    def __init__(
        self,
        work: Path | None,
        name: str,
        fusion: Fusion,
        rngs: Sequence[Generator],
        *,
        identity: Mapping[str, object],
        resume: bool,
        snapshots: dict[str, dict[str, Tensor]] | None = None,
        writes: bool = True,
    ) -> None:
        self.snapshots = {} if snapshots is None else snapshots
        self.identity, self.writes = dict(identity), writes
        self.work, self.name, self.fusion, self.rngs = work, name, fusion, rngs
        self.tensors: Mapping[str, Tensor] = {}
        self.state: Mapping[str, object] | None = None
        self.written = time.monotonic()
        if work is not None and resume:
            from pcs_core.storage.checkpoint import read_checkpoint

            checkpoint = read_checkpoint(work, self.file)
            if checkpoint is not None:
                self.tensors, self.state = checkpoint
                for key, value in self.identity.items():
                    begun = self.state.get(key, BEFORE.get(key))
                    if begun != value:
                        raise InputError(
                            f"the fit in {str(work)!r} was begun with another {key} "
                            f"({begun!r}, now {value!r}): start it anew"
                        )
                self._restore_parameters()

    @property
    def position(self) -> tuple[int, int] | None:
        """The phase and the step that the checkpoint which was read had reached; None without one."""
        return None if self.state is None else (self.value("phase", 0), self.value("step", 0))

    @property
    def losses(self) -> dict[str, list[float]]:
        """The last reading of each loss, by subject."""
        return dict(self.value("losses", {}))

    def value(self, key: str, default: Any) -> Any:
        """Return what the checkpoint that was read says of ``key``, ``default`` without one."""
        return default if self.state is None else self.state.get(key, default)

    @property
    def file(self) -> str:
        """The checkpoint's name in the work folder."""
        return f"fit-{self.name}"

    def _parameters(self) -> dict[str, Tensor]:
        return {
            f"parameter/{e.owner}/{e.key(0)}/{k}": t
            for e in self.fusion.edits
            for k, t in e.owned().items()
        }

    @torch.no_grad()
    def _restore_parameters(self) -> None:
        for name, tensor in self._parameters().items():
            tensor.copy_(self.tensors[name].to(tensor.device))
        for i, rng in enumerate(self.rngs):
            rng.set_state(self.tensors[f"rng/{i}"])
        for key, value in self.tensors.items():
            if key.startswith("snapshot/"):
                _, name, param = key.split("/", 2)
                self.snapshots.setdefault(name, {})[param] = value.clone()

    def restore(
        self,
        phase: int,
        optimizer: torch.optim.Optimizer,
        params: Mapping[str, nn.Parameter],
    ) -> int | None:
        """Return the step to go on from in ``phase``: 0 when it is new, None when it is behind us."""
        if self.state is None:
            return 0
        reached, step = int(str(self.state["phase"])), int(str(self.state["step"]))
        if phase < reached:
            return None
        if phase > reached:
            return 0
        restore_optimizer(optimizer, params, self.tensors)
        return step

    def maybe_write(
        self,
        phase: int,
        step: int,
        optimizer: torch.optim.Optimizer,
        params: Mapping[str, nn.Parameter],
        *,
        losses: Mapping[str, list[float]],
        last: bool,
        tensors: Callable[[], Mapping[str, Tensor]] = dict,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a checkpoint if enough time went by, or at the end of a phase.

        ``tensors`` gives what else there is to keep, ``state`` is plain data.
        """
        if (
            self.work is None
            or not self.writes
            or not (last or time.monotonic() - self.written > SECONDS)
        ):
            return
        from pcs_core.storage.checkpoint import write_checkpoint

        written = {k: v.detach().cpu() for k, v in self._parameters().items()}
        written |= optimizer_tensors(optimizer, params)
        written |= {f"rng/{i}": rng.get_state() for i, rng in enumerate(self.rngs)}
        written |= tensors()
        written |= {
            f"snapshot/{name}/{param}": value.cpu()
            for name, kept in self.snapshots.items()
            for param, value in kept.items()
        }
        place = {**self.identity, "phase": phase, "step": step, "losses": dict(losses)}
        write_checkpoint(self.work, self.file, written, {**(state or {}), **place})
        self.written = time.monotonic()
