"""Edits that give conditioning tokens of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pcs_core.edits.edit import Edit

if TYPE_CHECKING:
    from torch import Tensor


class StreamEdit(Edit):
    """Conditioning tokens computed once per batch, inside autograd, from features of `extract`.

    ``reads`` names the features; ``name`` the stream (``cond.streams[name]``). A branch that drops
    the stream gets what it says to features of zeros, unless it is ``in_every_branch``.
    """

    STAGES = ("stream",)
    LISTED = 70

    def __init__(
        self, name: str, reads: Sequence[str], *, in_every_branch: bool = False, **options: object
    ) -> None:
        super().__init__(name, **options)  # type: ignore[arg-type]
        self.reads, self.in_every_branch = tuple(reads), in_every_branch

    def sole_names(self) -> Iterable[tuple[str, str]]:
        """Return the stream."""
        return [("stream", self.name)]

    def shapes_conditioning(self) -> bool:
        """Return True."""
        return True

    def stream(self, *features: Tensor) -> Tensor:
        """Return the tokens [b n d] from one [b ...] tensor per name in ``reads``."""
        raise NotImplementedError
