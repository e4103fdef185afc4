"""Pictures of another size than the backbone's own, for one drawing or one fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pcs_core.errors import ArtifactError, CapabilityError, InputError

if TYPE_CHECKING:
    from pcs_core.backbone import Backbone
    from pcs_core.data import Fusion

MOST_SIDE = 2**14
"""Pixels of a side: no memory holds a picture far beyond."""


@contextmanager
def drawn_at(backbone: Backbone, size: tuple[int, int] | None) -> Iterator[None]:
    """Let ``backbone`` draw pictures of ``size`` (height, width in pixels), for the duration; None is its own.

    Raises
    ------
    InputError
        No two whole numbers.
    CapabilityError
        The backbone draws its own size only, or not this one; or something of the artifact is of the
        backbone's own size.
    """
    own_size = (backbone.card.size[0], backbone.card.size[1])
    with sized(backbone, size):
        try:
            yield
        except ArtifactError as error:
            if size is None or tuple(size) == own_size:
                raise
            raise CapabilityError(
                f"this artifact draws pictures of {own_size[1]}x{own_size[0]} alone, not of "
                f"{size[1]}x{size[0]}: {error}"
            ) from error


@contextmanager
def sized(backbone: Backbone, size: tuple[int, int] | None) -> Iterator[None]:
    """Let ``backbone`` have pictures of ``size`` (height, width in pixels), for the duration; None is its own.

    Raises
    ------
    InputError
        No two whole numbers.
    CapabilityError
        The backbone has pictures of its own size only, or not of this one.
    """
    own_size = (backbone.card.size[0], backbone.card.size[1])
    if size is None:
        yield
        return
    sides = size if isinstance(size, list | tuple) else ()
    if len(sides) != 2 or any(
        isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sides
    ):
        raise InputError(f"size={size!r}: give height and width in pixels, as (512, 768)")
    if max(sides) > MOST_SIDE:
        raise InputError(f"size={size!r}: at most {MOST_SIDE} pixels a side are drawn")
    if tuple(size) == own_size:
        yield
        return
    change = getattr(backbone, "at", None)
    if change is None:
        raise CapabilityError(
            f"backbone {backbone.card.id!r} draws pictures of {own_size[1]}x{own_size[0]} alone: leave the "
            "size out"
        )
    change(*size)
    try:
        yield
    finally:
        change(*own_size)


def check_hosts(fusion: Fusion, size: tuple[int, int] | None) -> None:
    """Refuse another size where a row of the drawing is a stored picture, whose size is the backbone's own.

    Raises
    ------
    CapabilityError
        Names the row's role.
    """
    for row in fusion.rows:
        if size is not None and row.latents == "trajectory":
            raise CapabilityError(
                f"the {row.role} beside the pictures is an inverted picture of the backbone's own size, which "
                f"{size[1]}x{size[0]} has no room for: leave the size out"
            )
