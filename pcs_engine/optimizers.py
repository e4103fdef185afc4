"""Optimizers by id, with a learning rate per glob, and their state as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import RecipeError, UnknownNameError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.data import Phase

BUILTIN = ("adamw", "adam", "sgd")
FUSED = ("cpu", "cuda")
"""Kinds of devices on which torch updates all parameters of a group in one call."""


def make_optimizer(phase: Phase, params: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Return the phase's optimizer over ``params`` with a group per learning-rate glob.

    Raises
    ------
    UnknownNameError
        No such optimizer; names the nearest.
    RecipeError
        A parameter that trains has no learning rate.
    """
    groups: dict[str, list[nn.Parameter]] = {glob: [] for glob in phase.lr}
    for name, param in params.items():
        glob = next((g for g in phase.lr if fnmatchcase(name, g)), None)
        if glob is None:
            raise RecipeError(f"phase {phase.name!r}: no learning rate matches {name!r}")
        groups[glob].append(param)
    named = [
        {"params": group, "lr": phase.lr[glob], "initial_lr": phase.lr[glob]}
        for glob, group in groups.items()
        if group
    ]
    if phase.optimizer in ("adamw", "adam"):
        cls = torch.optim.AdamW if phase.optimizer == "adamw" else torch.optim.Adam
        fused = all(p.device.type in FUSED and p.is_floating_point() for p in params.values())
        return cls(named, betas=phase.betas, weight_decay=phase.weight_decay, fused=fused)
    if phase.optimizer == "sgd":
        return torch.optim.SGD(named, lr=1.0, weight_decay=phase.weight_decay)
    from pcs_core.catalogue import catalogue

    known = catalogue()
    if phase.optimizer not in known.ids("optimizers"):
        ids = [*BUILTIN, *known.ids("optimizers")]
        raise UnknownNameError(
            f"phase {phase.name!r}: unknown optimizer {phase.optimizer!r}{nearest(phase.optimizer, ids)}"
        )
    return known.get("optimizers", phase.optimizer)(named, weight_decay=phase.weight_decay)  # type: ignore[no-any-return]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, params: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the optimizer's state as flat tensors, ``"optimizer/<param>/<state>"``."""
    names = {id(p): n for n, p in params.items()}
    flat: dict[str, Tensor] = {}
    for param, state in optimizer.state.items():
        for key, value in state.items():
            tensor = value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
            flat[f"optimizer/{names[id(param)]}/{key}"] = tensor.detach().cpu().clone()
    return flat


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    params: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put back what :func:`optimizer_tensors` gave."""
    for name, param in params.items():
        prefix = f"optimizer/{name}/"
        state: dict[str, Any] = {
            key.removeprefix(prefix): value.clone()
            for key, value in tensors.items()
            if key.startswith(prefix) and "/" not in key.removeprefix(prefix)
        }
        if state:
            # a fused optimizer counts its steps where the parameter is, the others on the CPU
            aside = () if optimizer.defaults.get("fused") else ("step",)
            optimizer.state[param] = {
                k: v if k in aside else v.to(param.device) for k, v in state.items()
            }
