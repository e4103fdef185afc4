"""A metric on disk: ``config.json`` and half-precision ``model.safetensors`` in a folder of its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

from pcs_core.errors import InputError
from pcs_mini.digest import check_shipped

TOKENIZER = "tokenizer"
"""Folder of a metric that reads text. A shipped one reads with the backbone's."""
FOLDER = Path(__file__).parent / "weights"
"""The shipped metrics, one folder each."""
ELSEWHERE = "PCS_MINI_METRICS"
"""Environment variable: a folder of metrics to use in place of the shipped ones."""

Net = TypeVar("Net", bound=nn.Module)


class MetricError(InputError):
    """A metric that is not there, or a name that it does not know."""


def shipped() -> Path:
    """Return the folder of the shipped metrics, or the one that ``PCS_MINI_METRICS`` names."""
    return Path(os.environ.get(ELSEWHERE) or FOLDER)


def write(folder: Path, net: nn.Module, config: dict[str, Any]) -> Path:
    """Save `net` in half precision with its configuration; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    save_file(
        {
            key: (value.half() if value.is_floating_point() else value).cpu().contiguous()
            for key, value in net.state_dict().items()
        },
        folder / "model.safetensors",
    )
    return folder


def begin_from(net: nn.Module, folder: Path) -> int:
    """Take over the weights of a metric saved before, where name and shape agree; their count."""
    kept = load_file(folder / "model.safetensors")
    current = net.state_dict()
    same = {
        k: v.to(current[k].dtype)
        for k, v in kept.items()
        if k in current and current[k].shape == v.shape
    }
    net.load_state_dict({**current, **same})
    return len(same)


def read(
    name: str, folder: Path | None, build: Callable[[dict[str, Any]], Net]
) -> tuple[Net, dict[str, Any]]:
    """Open metric `name` of a folder of metrics (the shipped one if None), in fp32, not trainable.

    `build` makes the network from the configuration.

    Raises
    ------
    MetricError
        If the folder has no such metric.
    InputError
        A shipped one is not as it was shipped.
    """
    root = (shipped() if folder is None else Path(folder)) / name
    if not (root / "config.json").exists():
        raise MetricError(
            f"no metric in {root}: reinstall pcs-mini, or train it with `pcs mini metric {name}` "
            f"and name the folder of metrics in {ELSEWHERE}"
        )
    if root.parent == FOLDER:
        check_shipped(root)
    config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    net = build(config)
    net.load_state_dict(load_file(root / "model.safetensors"))
    return net.float().eval().requires_grad_(False), config
