"""Edits that append tokens to the sequence which a denoiser reads, beside the picture's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pcs_core.edits.block import BlockEdit
from pcs_core.edits.stream import StreamEdit
from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.attach import Attachment


class SequenceEdit(StreamEdit):
    """Pictures beside the one that is drawn, as further tokens of the sequence at joint attention.

    Its stream are their latents [b r c h w], r of them. The network makes tokens of them as of the picture's,
    gives them places of their own, and answers for the picture's alone. Edits whose ``group`` is its name
    act on these tokens only.

    ``index``: the first number of the place of the first one's tokens (0 are the picture's), of the second
    twice as much; ``shift``: how far rows and columns of its grid are moved, in grids. ``level``: the noise
    level that the network is told for them, None: the picture's. ``apart``: they read themselves alone, so
    that with a level of their own their keys and values are the same in all steps of a drawing.
    """

    BOUND: ClassVar[int] = 50

    def __init__(
        self,
        name: str,
        reads: Sequence[str],
        *,
        index: float = 0.0,
        shift: tuple[float, float] = (0.0, 0.0),
        level: float | None = None,
        apart: bool = False,
        in_every_branch: bool = False,
        **options: object,
    ) -> None:
        super().__init__(name, reads, in_every_branch=in_every_branch, **options)
        self.index, self.shift, self.level, self.apart = index, shift, level, apart

    @classmethod
    def bind(cls, edits: Sequence[SequenceEdit], net: Attachment) -> None:
        """Let the backbone append the tokens.

        Raises
        ------
        CapabilityError
            It appends none; or block edits are beside, whose stream would not be the picture's alone.
        """
        backbone, owner = net.backbone, edits[0].owner or edits[0].name
        bind = getattr(backbone, "bind_sequence", None)
        if bind is None:
            raise CapabilityError(
                f"{owner!r} appends tokens to the sequence that the denoiser reads, and backbone "
                f"{backbone.card.id!r}, of the family {backbone.card.family!r}, has none that could be longer"
            )
        beside = net.fusion.of(BlockEdit)
        if beside and not all(edit.apart for edit in edits):
            raise CapabilityError(
                f"{beside[0].owner!r} acts on the residual stream, which holds the tokens of {owner!r} too: "
                "take one of them out"
            )
        net.undo(bind(edits, net))

    def stream(self, *features: Tensor) -> Tensor:
        """Return the latents [b r c h w]: the one feature that it reads."""
        return features[0]
