"""``--size`` and ``--aspect``: which pictures are drawn, in pixels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pcs_core.errors import CapabilityError, InputError

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone


def read_size(size: str | None, aspect: str | None) -> tuple[tuple[int, int] | None, float | None]:
    """Return height and width in pixels of "768x512", and width over height of "3:2", as far as given.

    Raises
    ------
    InputError
        Not of that form, or both.
    """
    if size is not None and aspect is not None:
        raise InputError("--size says it all: leave out --aspect")
    if size is not None:
        sides = re.fullmatch(r"\s*(\d{1,5})\s*[x×*]\s*(\d{1,5})\s*", size, re.IGNORECASE)
        if sides is None or 0 in (numbers := tuple(map(int, sides.groups()))):
            raise InputError(f"--size {size}: write width x height in pixels, as 768x512")
        return (numbers[1], numbers[0]), None
    if aspect is not None:
        sides = re.fullmatch(r"\s*(\d{1,5}(?:\.\d+)?)\s*[:/]\s*(\d{1,5}(?:\.\d+)?)\s*", aspect)
        if sides is None or 0 in (ratio := tuple(map(float, sides.groups()))):
            raise InputError(f"--aspect {aspect}: write width:height, as 3:2")
        return None, ratio[0] / ratio[1]
    return None, None


def chosen_size(
    backbone: Backbone, size: tuple[int, int] | None, aspect: float | None
) -> tuple[int, int] | None:
    """Return height and width to draw; of an aspect those of about as many pixels as the backbone's own.

    Raises
    ------
    CapabilityError
        The backbone draws pictures of its own size alone.
    """
    if aspect is None:
        return size
    step: Any = getattr(backbone, "size_step", None)
    height, width = backbone.card.size
    if step is None:
        raise CapabilityError(
            f"backbone {backbone.card.id!r} draws pictures of {width}x{height} alone: leave out --aspect"
        )
    pixels, multiple = height * width, step()
    sides = ((pixels / aspect) ** 0.5, (pixels * aspect) ** 0.5)
    chosen = [max(multiple, round(side / multiple) * multiple) for side in sides]
    return chosen[0], chosen[1]
