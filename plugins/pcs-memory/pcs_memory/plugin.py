"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def commands() -> Mapping[str, str]:
    """``pcs memory``."""
    return {"memory": "pcs_memory.command:app"}


@catalogue_hookimpl
def optimizers() -> Mapping[str, str]:
    """Optimizers whose state takes less."""
    return {"adamw-8bit": "pcs_memory.eight_bit:adamw"}


@catalogue_hookimpl
def services() -> Mapping[str, str]:
    """What ``pcs fit --have`` asks for the options that spare memory."""
    return {"memory_setting": "pcs_memory.choosing:memory_setting"}
