"""The command ``pcs``. Plugins that offer commands of their own import the names below.

They are loaded on first use, so that help and listings import no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcs_cli.opening import device_name
    from pcs_cli.output_folder import destination
    from pcs_cli.progress import reporting

__all__ = ["destination", "device_name", "reporting"]

_MODULES = {
    "destination": "pcs_cli.output_folder",
    "device_name": "pcs_cli.opening",
    "reporting": "pcs_cli.progress",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'pcs_cli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
