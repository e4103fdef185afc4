"""The loop that every metric trains with: schedule, averaging, checkpoints, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcs_mini.metrics import stored
from pcs_mini.training.journal import Journal
from pcs_mini.training.loop import (
    Average,
    Report,
    Settings,
    load_checkpoint,
    rate,
    save_checkpoint,
    start,
)
from pcs_mini.training.muon import split_optimizers

_SETTLING = 24
"""Steps at the end that only count the statistics of the averaged weights' activations."""


@dataclass
class Run:
    """A metric in training."""

    name: str
    settings: Settings
    modules: Mapping[str, nn.Module]
    not_matrices: tuple[str, ...]
    """Parts of names of weights that AdamW takes: heads, embeddings, the first layer."""
    report: Report

    def __post_init__(self) -> None:
        self.device = start(self.settings).device
        for name, module in self.modules.items():
            if self.settings.init is not None and (self.settings.init / name).exists():
                taken = stored.begin_from(module, self.settings.init / name)
                self.report(f"{name}: {taken} tensors of {self.settings.init / name}")
            module.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizers = split_optimizers(
            self.modules.values(), self.settings.lr, self.settings.matrix_lr, self.not_matrices
        )
        self.average = Average(self.modules, horizon=0.998)
        self.draws = torch.Generator().manual_seed(self.settings.seed)
        self.checkpoint = self.settings.out / f"{self.name}.safetensors"
        self.steps = self.settings.images // self.settings.batch
        self.first = 0
        if self.settings.resume and self.checkpoint.exists():
            self.first = load_checkpoint(
                self.checkpoint, self.modules, self.optimizers, self.average, {"draws": self.draws}
            )
            self.report(f"{self.name}: resumed after step {self.first}")

    def train(
        self,
        loss_of: Callable[[], tuple[Tensor, dict[str, float]]],
        watch: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        """Minimise ``loss_of()``, which takes the next batch; `watch` measures now and then.

        Afterwards the modules hold the averaged weights and stand in evaluation mode.
        """
        journal = Journal(self.settings.out, self.name)
        weights = [p for module in self.modules.values() for p in module.parameters()]
        began = time.monotonic()
        for step in range(self.first, self.steps):
            share = rate(step, self.steps, self.settings.warmup, self.settings.decay_share)
            for optimizer, base in zip(
                self.optimizers, (self.settings.matrix_lr, self.settings.lr), strict=True
            ):
                optimizer.param_groups[0]["lr"] = base * share
            with torch.autocast(self.device.type, torch.bfloat16):
                loss, measures = loss_of()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 2.0)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self.average.update(step)
            done = step + 1
            if done % 50 == 0:
                line = journal.note(
                    done, done * self.settings.batch, loss=round(loss.item(), 4), **measures
                )
                speed = line.get("images_per_s") or 50 * self.settings.batch / (
                    time.monotonic() - began
                )
                shown = " ".join(
                    f"{k} {v:.3f}" for k, v in {"loss": loss.item(), **measures}.items()
                )
                self.report(f"{self.name} step {done}/{self.steps} {shown} {speed:.0f} images/s")
            if done % self.settings.save_every == 0 or done == self.steps:
                self._save(done)
                if watch is not None and done < self.steps:
                    checked = self._watch(watch)
                    journal.note(done, done * self.settings.batch, **checked)
                    self.report(f"{self.name} step {done}: {checked}")
        self.average.swap()
        self._settle(loss_of)

    def _save(self, done: int) -> None:
        save_checkpoint(
            self.checkpoint,
            done,
            self.modules,
            self.optimizers,
            self.average,
            {"draws": self.draws},
        )

    def _watch(self, watch: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Measure with the live weights in evaluation mode."""
        for module in self.modules.values():
            module.eval()
        with torch.no_grad():
            measures = watch()
        for module in self.modules.values():
            module.train()
        return measures

    @torch.no_grad()
    def _settle(self, loss_of: Callable[[], tuple[Tensor, dict[str, float]]]) -> None:
        """Batch statistics of the averaged weights: the kept ones belong to the live weights."""
        for module in self.modules.values():
            for part in module.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.reset_running_stats()
                    part.momentum = None
        with torch.autocast(self.device.type, torch.bfloat16):
            for _ in range(_SETTLING):
                loss_of()
        for module in self.modules.values():
            module.eval()
