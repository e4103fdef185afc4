"""A colour cast that all references share: a fit takes it for the subject's own colour."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Features, Loss

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import FitStep, Run, Subject

DIRECTION = "defense.cast"
"""Feature: the way latents move under the cast, [c]; a product with it is 1 for as far as the cast itself."""
MIDDLE = "defense.clean"
"""Feature: the mean of each reference's own latents, [N c]."""
HUES = tuple(signs for signs in product((1.0, -1.0), repeat=3) if len(set(signs)) > 1)
"""Casts [r g b] to choose from: the six corners of the colour cube that are no grey."""
SIZE = 0.025
"""Size of the cast that the loss is measured in, for pixels in [0, 1]."""

# sRGB to XYZ (IEC 61966-2-1), and XYZ to CIELAB (CIE 15:2004) with the white point D65
TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
TO_LAB = ((0.0, 116.0, 0.0), (500.0, -500.0, 0.0), (0.0, 200.0, -200.0))


def lab(images: Tensor) -> Tensor:
    """Return images [n 3 h w] in [0, 1] as CIELAB, where distances are those that people see."""
    linear = torch.where(images > 0.04045, ((images + 0.055) / 1.055) ** 2.4, images / 12.92)
    matrix = images.new_tensor(TO_XYZ)
    xyz = torch.einsum("ij,njhw->nihw", matrix / matrix.sum(1, keepdim=True), linear)
    curve = torch.where(xyz > 216 / 24389, xyz.clamp_min(1e-6) ** (1 / 3), xyz * 841 / 108 + 4 / 29)
    found = torch.einsum("ij,njhw->nihw", images.new_tensor(TO_LAB), curve)
    return found - images.new_tensor([16.0, 0.0, 0.0]).view(3, 1, 1)


def strongest_cast(images: Tensor) -> Tensor:
    """Return the cast [1 3 1 1] of signs that changes images [n 3 h w] in [0, 1] most to the eye."""
    before = lab(images)
    casts = [images.new_tensor(signs).view(1, 3, 1, 1) for signs in HUES]
    seen = [(lab((images + SIZE * c).clamp(0, 1)) - before).norm(dim=1).mean() for c in casts]
    return casts[int(torch.stack(seen).argmax())]


class ColourCast(Technique):
    """Move the latents of all references one way: the way of the cast that the eye sees most.

    What differs between references averages out in a fit. What they share is learned as the subject's, and
    guidance multiplies it: pictures drawn later have the wrong colours. For a phase that trains the
    change of ``defense.perturbation``. The loss "defense.cast" is -1 where latents moved as far as a
    cast of 0.025 moves them, for pixels in [0, 1]. Of no paper.
    """

    id = "defense.cast"
    catalogue = ("perturbation-defense",)
    neutral = {"weight": 0.0}
    stacks_subjects = False

    weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Factor of the loss."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Choose the cast, and see how it moves the latents."""
        if moment != "start" or not self.weight:
            return None
        from pcs_core import fit_image

        images = torch.stack([fit_image(i, run.image_size) for i in subject.images]).to(run.device)
        with torch.no_grad():
            clean = run.encode(images)
            moved = run.encode((images + SIZE * strongest_cast(images)).clamp(0, 1))
        way = (moved - clean).float().mean(dim=(0, 2, 3))
        tensors = {
            DIRECTION: way / way.square().sum(),
            MIDDLE: clean.float().mean(dim=(2, 3)),
        }
        return Features(tensors=tensors)

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> Loss | None:
        """Return how far the subject's rows moved along the cast, negative."""
        if not self.weight:
            return None
        rows = step.batch.rows("subject")
        direction, middle = (run.features.tensors[k][0] for k in (DIRECTION, MIDDLE))
        index = torch.tensor(step.batch.index, device=middle.device).clamp_min(0)
        moved = step.batch.latents.float().mean(dim=(2, 3)) - middle[index]
        return Loss("defense.cast", -(moved @ direction), weight=self.weight, rows=rows)
