"""Where things should stand in a picture: boxes, points and a control picture, given with a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Box:
    """A place for a phrase of the prompt.

    ``phrase`` as it stands in the prompt, a concept's token or plain words; ``box`` left, top, right,
    bottom in [0, 1] of the picture; ``prompt`` what this region alone is told (regional attention),
    or "" for the prompt itself.
    """

    phrase: str
    box: tuple[float, float, float, float]
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """Boxes of a picture, and named points (x, y) in [0, 1], such as the key points of a face.

    Points: left eye, right eye, nose, left and right corner of the mouth, as seen in the picture. ``picture``
    [3 h w] in [0, 1] is one of edges, depth, poses or the like, which a control network reads; it is scaled to
    the size that is drawn.
    """

    boxes: tuple[Box, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    picture: Tensor | None = field(default=None, compare=False)

    @property
    def phrases(self) -> tuple[str, ...]:
        """The phrases of the boxes, in order."""
        return tuple(box.phrase for box in self.boxes)
