"""What every training stage shares: device, seeding, schedules, moving average, checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Report = Callable[[str], None]


@dataclass
class Settings:
    """How a stage is run; what it trains is the stage's own business."""

    out: Path
    """Folder for checkpoints and results; made if missing."""
    images: int
    """Pictures to see in all, those of a resumed run included."""
    batch: int = 32
    lr: float = 2e-3
    matrix_lr: float = 2e-3
    warmup: int = 100
    """Steps until the learning rate is full; a start from weights alone warms up too."""
    decay_share: float = 0.5
    """Share of the run, at its end, over which the learning rate falls to zero."""
    seed: int = 0
    device: str | None = None
    resume: bool = False
    pool: int = 20_000
    """Pictures rendered in advance."""
    save_every: int = 200
    """Steps between checkpoints."""
    init: Path | None = None
    """Weights folder to start from with a fresh optimizer."""
    compile: bool = False
    decoder_only: bool = False
    """Stage ``vae``: leave the encoder as it is, so that a denoiser trained on it stays right."""


def device_of(accelerator: Any) -> str:
    """What a run trains on, in words."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f"{name} (processes: {accelerator.num_processes}, threads: {torch.get_num_threads()})"


def start(settings: Settings) -> Accelerator:
    """Seed everything and pick the device; mixed precision in bfloat16 throughout."""
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("WORLD_SIZE", 1))))
    on_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    return Accelerator(mixed_precision="bf16", cpu=on_cpu)


def rate(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Share of the full learning rate: rise, hold, fall linearly to zero."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    fall = min(1.0, (steps - step) / max(1.0, steps * decay_share))
    return rise * max(fall, 0.0)


def add_over_processes(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over the processes of the run, in place, in one exchange."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Mean gradient over the processes of the run: each sees its own share of the batch."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    add_over_processes(gradients)
    if dist.is_initialized():
        torch._foreach_div_(gradients, dist.get_world_size())


class Average:
    """Exponential moving average of parameters, warmed up so that early steps count less."""

    def __init__(self, modules: Mapping[str, nn.Module], horizon: float = 0.999) -> None:
        self.modules = modules
        self.horizon = horizon
        self.values = {key: value.detach().clone() for key, value in self._live()}

    def _live(self) -> list[tuple[str, Tensor]]:
        return [
            (f"{part}:{name}", p)
            for part, module in self.modules.items()
            for name, p in module.named_parameters()
        ]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the live parameters after optimizer step `step`, counted from 0."""
        keep = min(self.horizon, (1 + step) / (10 + step))
        live = self._live()
        torch._foreach_lerp_([self.values[k] for k, _ in live], [p for _, p in live], 1 - keep)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averaged and live parameters; call twice to come back."""
        for key, p in self._live():
            kept = p.detach().clone()
            p.copy_(self.values[key])
            self.values[key].copy_(kept)


def save_checkpoint(
    path: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    average: Average,
    generators: Mapping[str, torch.Generator],
) -> None:
    """Everything needed to go on bit for bit, in one safetensors file, replaced atomically."""
    tensors: dict[str, Tensor] = {"step": torch.tensor(step), "rng": torch.get_rng_state()}
    for part, module in modules.items():
        tensors |= {f"live:{part}:{k}": p for k, p in module.state_dict().items()}
    tensors |= {f"average:{k}": p for k, p in average.values.items()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer:{i}:{j}:{k}": v for k, v in state.items()}
    tensors |= {f"generator:{k}": g.get_state() for k, g in generators.items()}
    fresh = path.with_suffix(".tmp")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, fresh)
    os.replace(fresh, path)


def load_checkpoint(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    average: Average,
    generators: Mapping[str, torch.Generator],
) -> int:
    """Restore what :func:`save_checkpoint` wrote; the number of steps done."""
    tensors = load_file(path)
    for part, module in modules.items():
        head = f"live:{part}:"
        module.load_state_dict(
            {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
        )
    for key, value in average.values.items():
        value.copy_(tensors[f"average:{key}"])
    for i, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            head, *rest = key.split(":")
            if head == "optimizer" and int(rest[0]) == i:
                states.setdefault(int(rest[1]), {})[rest[2]] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    for key, generator in generators.items():
        generator.set_state(tensors[f"generator:{key}"])
    torch.set_rng_state(tensors["rng"])
    return int(tensors["step"])
