"""Which pictures the graphs of a deployment can draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcs_core.errors import CapabilityError


def latent_shape(
    facts: Mapping[str, Any], folder: Path, height: int, width: int
) -> tuple[int, int, int]:
    """Return the latents [c h w] of pictures of ``height`` x ``width``.

    Raises
    ------
    CapabilityError
        The graphs take one size only, or the network's levels do not divide this one.
    """
    channels, *side = facts["latent_shape"]
    usual, step = tuple(facts["backbone"]["size"]), facts["size"]["step"]
    factor = usual[0] // side[0]
    if (height, width) != usual and not step:
        raise CapabilityError(
            f"{folder}: its graphs take pictures of {usual} only: export with --option size=dynamic"
        )
    if (height, width) != usual and (height % (factor * step) or width % (factor * step)):
        raise CapabilityError(
            f"{folder}: height and width must be multiples of {factor * step}, not "
            f"{height} x {width}"
        )
    return channels, height // factor, width // factor
