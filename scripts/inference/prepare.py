"""What is made ready in a process of its own, before clocks run: low-rank fits and their deployment."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path
from typing import Any

import torch

from inference import engines
from inference.artifacts import prepare_lora
from pcs_core import open_backbone


def lora(name: str, root: Path, count: int, steps: int, fresh: bool) -> None:
    """Fit ``count`` subjects on backbone ``name`` and export their system, into ``root``."""
    logging.getLogger("pcs").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    backbone = open_backbone(name)
    prepared = prepare_lora(backbone, count, steps, root, fresh=fresh)
    engines.onnx(prepared, backbone, root, fresh=fresh)


def begin(name: str, root: Path, count: int, steps: int, *, fresh: bool) -> Any:
    """Start :func:`lora` in a process, and return it."""
    process = multiprocessing.get_context("spawn").Process(
        target=lora, args=(name, root, count, steps, fresh), daemon=True
    )
    process.start()
    return process
