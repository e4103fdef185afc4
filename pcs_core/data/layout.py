"""Where things should stand in a picture: boxes of phrases and points, given with a prompt."""

from __future__ import annotations

from dataclasses import dataclass


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

    Points: left eye, right eye, nose, left and right corner of the mouth, as seen in the picture.
    """

    boxes: tuple[Box, ...] = ()
    points: tuple[tuple[float, float], ...] = ()

    @property
    def phrases(self) -> tuple[str, ...]:
        """The phrases of the boxes, in order."""
        return tuple(box.phrase for box in self.boxes)
