"""A control branch on key points, reading image tokens in place of text (InstantID, 2401.07519, 3.3)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import BranchEdit, Features, Fusion, Words
from pcs_core.errors import InputError
from pcs_fusion.key_points import ABSENT, COLOURS, draw_face, draw_points

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from pcs_core.data import Conditioning, Run, Subject


class PointBranch(BranchEdit):
    """A control network on drawn points, ``draw`` of [b 5 2]. Where a copy reads text is a stream.

    Of the prompt a copy of SDXL's is told the pooled state alone, as in the released pipeline.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        stream: str,
        draw: Callable[[Tensor], Tensor],
        points: Tensor | None,
    ) -> None:
        super().__init__(name)
        self.network, self.source, self.draw = network, stream, draw
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
        image = self.draw(points)
        text = cond.streams[self.source]
        pooled = (cond.pooled,) if getattr(self.network, "reads_pooled", False) else ()
        down, middle = self.network(latents, time, text, image, *pooled)
        scale = cond.extra[f"{self.name}.scale"].view(-1, 1, 1, 1)
        return [residual * scale for residual in down], middle * scale


class ControlBranch(Technique):
    """Key points steer the pose through a control network whose text is the subject's tokens."""

    id = "fusion.control_branch"
    catalogue = ("control-branch",)
    reads_layout = True
    neutral = {"strength": 0.0}
    absent = {"drawing": "points"}
    later = ("stick",)
    tiny = {"width": 0.5, "radius": 0.05, "stick": 0.03}
    tiny_beside = {
        "encoders.face": {},
        "attention.parallel_adapter": {"key": "face", "strength": 0.0},
    }
    stacks_subjects = False

    stream: str = "face"
    """The stream it reads in place of the prompt."""
    width: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the denoiser's channels: 1 copies its first half, less is a network from scratch."""
    drawing: Literal["face", "points"] = "face"
    """What is drawn: discs with limbs between them, as released, or the discs alone."""
    radius: Annotated[float, Field(gt=0.0, le=0.2)] = 0.01
    """Radius of a drawn point, as a share of the picture's height."""
    stick: Annotated[float, Field(gt=0.0, le=0.2)] = 0.004
    """Half the width of a limb, as a share of the picture's height."""
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
        first = next((p for p in given if p is not None and len(p)), None)
        if first is None:  # absent points stand far outside the picture
            first = [[-9.0, -9.0]] * len(COLOURS)
        points = torch.as_tensor(first, dtype=torch.float32)
        return Features(tensors={"control.points": points}, keep=("control.points",))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put a control network beside the denoiser."""
        network = run.control_network(3, self.width)
        points: Tensor | None = features.tensors["control.points"][:1]
        if points is not None and bool((points < ABSENT).all()):  # none were given
            points = None
        size, radius = run.image_size, self.radius
        draw = partial(draw_points, size=size, radius=radius)
        if self.drawing == "face":
            draw = partial(draw_face, size=size, radius=radius, stick=self.stick)
        branch = PointBranch("control", network, self.stream, draw, points)
        return Fusion(edits=(branch,), strengths={"control.scale": self.strength})
