"""A radiance field that is rendered in place of drawing examples (DreamFusion, arXiv:2209.14988, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import Field as Setting

from pcs_core import Technique, hookimpl
from pcs_core.data import RENDERED, Features, Fusion, Loss, Rendered
from pcs_three_d.cameras import draw_camera, view
from pcs_three_d.field import Field

if TYPE_CHECKING:
    from torch import Generator

    from pcs_core.data import FitStep, Run, Subject

PICTURES = "three_d.pictures"
"""Feature: how many pictures the subject has, [1]; known while fitting only."""

Range = Annotated[tuple[float, float], Setting(min_length=2, max_length=2)]
Share = Annotated[float, Setting(ge=0.0, le=1.0)]
Weight = Annotated[float, Setting(ge=0.0)]


@dataclass(frozen=True, slots=True)
class Renderer:
    """What a fit renders: ``field`` seen by random cameras, at the backbone's size [h w]."""

    field: Field
    settings: Renderable
    prompt: str
    size: tuple[int, int]

    @property
    def captions(self) -> tuple[str, ...]:
        """One caption for each view."""
        return tuple(self.prompt + words for words in self.settings.views)

    def render(self, count: int, rng: Generator, progress: float) -> Rendered:
        """Return ``count`` pictures; ``extra`` holds "three_d.opacity" and "three_d.orientation" [n]."""
        settings = self.settings
        cameras = [
            draw_camera(rng, settings.elevation, settings.distance, settings.field_of_view)
            for _ in range(count)
        ]
        lit = torch.rand(count, generator=rng) < (
            settings.shaded if progress >= settings.shaded_from else 0
        )
        bare = lit & (torch.rand(count, generator=rng) < settings.textureless)
        colours = torch.rand(count, 3, generator=rng)
        replaced = torch.rand(count, 1, generator=rng) < settings.random_background
        seen = self.field.look(
            cameras,
            settings.size,
            settings.samples,
            rng=rng,
            backgrounds=torch.where(replaced, colours, torch.nan),
            light=[0.9 if on else 0.0 for on in lit.tolist()],
            textureless=bare.tolist(),
        )
        images = seen.image
        if tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False)
        opacity = (seen.opacity.square() + 0.01).sqrt().mean(dim=(1, 2, 3))
        extra = {"three_d.opacity": opacity, "three_d.orientation": seen.orientation}
        return Rendered(images, tuple(self.captions[view(c)] for c in cameras), extra)


class Renderable(Technique):
    """Own a field of voxels; a phase with ``batch = { rendered = n }`` renders it from random cameras.

    What judges the pictures is another technique's business. Two small losses of its own keep the
    field thin ("three_d.opacity") and its surfaces turned to the cameras ("three_d.orientation").
    """

    id = "three_d.renderable"
    formerly = ("three_d.canvas",)
    takes_clips = False
    writes = (
        "feature:three_d.pictures",
        "head:field",
        "role:rendered",
        "extra:three_d.opacity",
        "extra:three_d.orientation",
    )
    catalogue = ("renderable-canvas",)
    tiny = {"size": 16, "cells": 6, "samples": 8, "random_background": 0.0}
    tiny_batch = {"rendered": 1}
    stacks_subjects = False

    size: Annotated[int, Setting(ge=8, le=512)] = 64
    """Pixels of a rendered picture's side; it is scaled to the backbone's size."""
    cells: Annotated[int, Setting(ge=4, le=256)] = 32
    """Points of the grid along each axis."""
    samples: Annotated[int, Setting(ge=4, le=512)] = 48
    """Points looked at along a ray."""
    prompt: str = "a photo of {subject}"
    """Caption; {subject} is the token where there are pictures to learn it from, else "a <noun>"."""
    views: Annotated[tuple[str, ...], Setting(min_length=4, max_length=4)] = (
        ", front view",
        ", side view",
        ", back view",
        ", overhead view",
    )
    """What follows the caption when it is seen from the front, a side, the back, or above."""
    elevation: Range = (-10.0, 90.0)
    """Least and most degrees of a camera above the ground."""
    distance: Range = (2.6, 3.4)
    """Least and most distance of a camera from the centre; the scene is a cube of side 2."""
    field_of_view: Range = (36.0, 48.0)
    """Least and most degrees that a camera sees."""
    shaded: Share = 0.75
    """Share of the pictures with light that depends on the surface's angle."""
    shaded_from: Share = 0.1
    """Part of the phase after which pictures are shaded."""
    textureless: Share = 0.5
    """Share of the shaded pictures that show the shape without colours."""
    random_background: Share = 0.5
    """Share of the pictures before a random colour instead of the learned one."""
    opacity: Weight = 1e-3
    """Factor of the loss on what covers the background."""
    orientation: Weight = 1e-2
    """Factor of the loss on surfaces that face away though they are seen."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Count the pictures: without any, the prompt names the noun."""
        if moment != "start":
            return None
        return Features(tensors={PICTURES: torch.tensor([len(subject.images)])})

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Give the run a field as its source of pictures."""
        field = self.field(run.init_rng(0, self.id))
        concept = features.concepts[0][0] if features.concepts and features.concepts[0] else None
        count = features.tensors.get(PICTURES)
        known = concept is not None and (count is None or int(count[0, 0]) > 0)
        noun = "thing" if concept is None else concept.noun
        named = concept.token if concept is not None and known else f"a {noun}"
        prompt = self.prompt.replace("{subject}", named)
        renderer = Renderer(field, self, prompt, run.image_size)
        return Fusion(edits=(field,), source=renderer)

    def field(self, rng: Generator | None = None) -> Field:
        """Return a field at its start: a grey ball, its colours slightly mixed by ``rng``."""
        shape = 3, self.cells, self.cells, self.cells
        start = torch.zeros(shape) if rng is None else 0.1 * torch.randn(shape, generator=rng)
        return Field(self.cells, start)

    @hookimpl
    def regularize(self, step: FitStep) -> list[Loss] | None:
        """Return the field's own two losses, for rendered rows."""
        rows, extra = step.batch.rows(RENDERED), step.batch.extra
        if not bool(rows.any()):
            return None
        weights = {"three_d.opacity": self.opacity, "three_d.orientation": self.orientation}
        return [Loss(name, extra[name], weight=w, rows=rows) for name, w in weights.items() if w]
