"""Sizes multiplied out before anything is allocated: a number with too many zeros is refused, not tried."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pcs_core.data.recipe import ALL
from pcs_core.errors import InputError
from pcs_core.tensor_headers import machine_memory

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Recipe

BYTES = 4
"""Of a number in full precision."""


def check_rows(recipe: Recipe, backbone: Backbone, subjects: int) -> None:
    """Refuse a phase whose rows alone, without any network, do not fit into the machine's memory.

    Raises
    ------
    InputError
        Names the phase, what its rows take and what there is.
    """
    memory = machine_memory()
    if memory is None:
        return
    frames = backbone.latent_shape[1] if len(backbone.latent_shape) == 4 else 1
    height, width = backbone.card.size
    one = BYTES * (3 * frames * height * width + math.prod(backbone.latent_shape))
    for phase in recipe.phases:
        rows = subjects * sum(count for count in phase.batch.values() if count != ALL)
        if rows * one > memory:
            taken, there = rows * one / 1e9, memory / 1e9
            raise InputError(
                f"{recipe.id}: {phase.name}.batch: {rows} rows of {width} x {height} take {taken:.0f} GB "
                f"alone, and this machine has {there:.0f}: give fewer, or raise {phase.name}.accumulate"
            )
