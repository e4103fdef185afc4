"""AdamW whose two moments take a byte a number each (arXiv:2110.02861), by bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    import torch

PACKAGE = "bitsandbytes"


def adamw(params: Iterable[dict[str, Any]], *, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """Return it. Tensors of fewer than 4096 numbers keep their moments in fp32.

    Raises
    ------
    CapabilityError
        bitsandbytes is not installed.
    """
    if find_spec(PACKAGE) is None:
        raise CapabilityError(
            f"optimizer 'adamw-8bit' needs {PACKAGE}, which is not installed: "
            f'pip install "pcs-memory[{PACKAGE}]"'
        )
    optimizer: torch.optim.Optimizer = import_module(f"{PACKAGE}.optim").AdamW8bit(
        list(params), lr=1.0, weight_decay=weight_decay
    )
    return optimizer
