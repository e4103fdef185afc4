"""A control branch on key points, reading image tokens in place of text (InstantID, 2401.07519, 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import BranchEdit, Features, Fusion, Words
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from pcs_core.data import Conditioning, Run, Subject

COLOURS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1.0))
"""Of the five points: left eye, right eye, nose, left and right corner of the mouth."""


def draw_points(points: Tensor, size: tuple[int, int], radius: float) -> Tensor:
    """Return black pictures [b 3 h w] with a coloured disc at each point [b 5 2], x and y in [0, 1].

    ``radius`` is a share of the height. A point outside the picture draws nothing.
    """
    height, width = size
    y = (torch.arange(height, device=points.device) + 0.5) / height
    x = (torch.arange(width, device=points.device) + 0.5) / width
    dx = (x.view(1, 1, 1, -1) - points[..., 0].view(*points.shape[:2], 1, 1)) * width / height
    dy = y.view(1, 1, -1, 1) - points[..., 1].view(*points.shape[:2], 1, 1)
    inside = (dx.square() + dy.square() < radius**2).float()
    colours = torch.tensor(COLOURS, device=points.device)[: points.shape[1]]
    return torch.einsum("bnhw,nc->bchw", inside, colours).clamp(0, 1)


class PointBranch(BranchEdit):
    """A control network on drawn points. It never sees the prompt: its text is a stream."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        stream: str,
        size: tuple[int, int],
        radius: float,
        points: Tensor | None,
    ) -> None:
        super().__init__(name)
        self.network, self.source, self.size, self.radius = network, stream, size, radius
        self.points: Tensor | None
        self.register_buffer("points", points, persistent=False)

    def residuals(
        self, latents: Tensor, time: Tensor, cond: Conditioning
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Return the network's residuals times the strength."""
        points = cond.extra.get("points")
        if points is None:
            if self.points is None:
                raise InputError(
                    "the control branch needs key points: none lie beside the references "
                    "(<stem>.json), and no detector finds them in a picture: give --layout with points"
                )
            points = self.points.expand(latents.shape[0], -1, -1)
        image = draw_points(points, self.size, self.radius)
        down, middle = self.network(latents, time, cond.streams[self.source], image)
        scale = cond.extra[f"{self.name}.scale"].view(-1, 1, 1, 1)
        return [residual * scale for residual in down], middle * scale


class ControlBranch(Technique):
    """Key points steer the pose through a control network whose text is the subject's tokens."""

    id = "fusion.control_branch"
    catalogue = ("control-branch",)
    reads_layout = True
    neutral = {"strength": 0.0}
    tiny = {"width": 0.5}
    tiny_beside = {
        "encoders.face": {},
        "attention.parallel_adapter": {"key": "face", "strength": 0.0},
    }
    stacks_subjects = False

    stream: str = "face"
    """The stream it reads in place of the prompt."""
    width: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the denoiser's channels: 1 copies its first half, less is a network from scratch."""
    radius: Annotated[float, Field(gt=0.0, le=0.2)] = 0.03
    """Radius of a drawn point, as a share of the picture's height."""
    strength: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """Factor of its residuals; sampling may set another under ``"control.scale"``."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(
            reads=(f"stream:{self.stream}",),
            may_read=("place:points",),
            writes=("feature:control.points", "strength:control.scale"),
        )

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Keep the points of the first reference that has some, for prompts without a layout."""
        if moment != "start":
            return None
        given = (extra.get("points") for extra in subject.extra)
        found = next((p for p in given if p is not None and len(p)), None)
        if found is None:  # absent points stand far outside the picture
            found = [[-9.0, -9.0]] * len(COLOURS)
        points = torch.as_tensor(found, dtype=torch.float32)
        return Features(tensors={"control.points": points}, keep=("control.points",))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put a control network beside the denoiser."""
        network = run.control_network(3, self.width)
        points: Tensor | None = features.tensors["control.points"][:1]
        if points is not None and bool((points < -1).all()):  # none were given
            points = None
        branch = PointBranch("control", network, self.stream, run.image_size, self.radius, points)
        return Fusion(edits=(branch,), strengths={"control.scale": self.strength})
