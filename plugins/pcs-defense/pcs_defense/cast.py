"""A colour cast that all references share: a fit takes it for the subject's own colour."""

from __future__ import annotations

import hashlib
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
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
CASTS = tuple(product((1.0, -1.0), repeat=3))
"""Casts [r g b] to choose from: the corners of the colour cube."""
SIZE = 0.025
"""Size of the cast that the loss is measured in, for pixels in [0, 1]."""


@torch.no_grad()
def furthest_cast(drawn: Tensor, references: Tensor, encoder: Any) -> Tensor:
    """Return the cast [1 3 1 1] of signs that takes drawings away from references.

    That is, of :data:`CASTS` at :data:`SIZE`, the one after which pictures ``drawn`` [n 3 h w] are least
    like ``references`` [m 3 h w], all in [0, 1], by the cosine of the encoder's ``pooled`` features.
    """
    centre = F.normalize(encoder.pooled(references).float(), dim=-1).mean(0)
    casts = [drawn.new_tensor(signs).view(1, 3, 1, 1) for signs in CASTS]
    likeness = [
        (F.normalize(encoder.pooled((drawn + SIZE * cast).clamp(0, 1)).float(), dim=-1) @ centre)
        for cast in casts
    ]
    return casts[int(torch.stack(likeness).mean(1).argmin())]


class ColourCast(Technique):
    """Move the latents of all references one way: that of the cast which takes drawings furthest away.

    What differs between references averages out in a fit; what they share is learned as the subject's,
    and pictures drawn later have the wrong colours. Which colours are the wrong ones, a fit says: those
    that it misses anyway count twice. So ``surrogates`` personalise with the clean references first, and
    the cast is chosen by what they draw. For a phase that trains the change of ``defense.perturbation``.
    The loss "defense.cast" is -1 where latents moved as far as a cast of 0.025 moves them, for pixels in
    [0, 1]. Of no paper.
    """

    id = "defense.cast"
    takes_clips = False
    reads = ("role:subject",)
    writes = ("feature:defense.cast", "feature:defense.clean")
    catalogue = ("perturbation-defense",)
    neutral = {"weight": 0.0}
    tiny = {
        "surrogates": ["style-aligned"],  # nothing to train
        "prompts": ["a photo of {token}"],
        "count": 1,
        "encoder": "tiny.image",
    }
    tiny_unseen = "it begins at weight 0, and a weight costs fits of other systems"
    stacks_subjects = False

    weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Factor of the loss."""
    surrogates: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "dreambooth",
        "lora-dreambooth",
        "textual-inversion",
    )
    """Systems to protect from: each is fitted once, on the clean references."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "a photo of {token}",
        "a photo of {token} in a forest",
        "a photo of {token} on a city street",
        "a photo of {token} on a wooden table",
    )
    """What the surrogates draw; ``{token}`` stands for the subject."""
    count: Annotated[int, Field(ge=1)] = 3
    """Pictures a prompt."""
    encoder: str = "clip.image"
    """Feature model with ``pooled`` that tells how like a drawing is to the references."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Choose the cast by what surrogates draw, and see how it moves the latents."""
        if moment != "start" or not self.weight:
            return None
        from pcs_core import fit_image, load_recipe

        encoder = run.feature_model(self.encoder)
        for system in self.surrogates:
            load_recipe(system)  # a wrong name is told before the first of them is fitted
        images = torch.stack([fit_image(i, run.image_size) for i in subject.images]).to(run.device)
        drawn = torch.cat([self._drawings(run, subject, system) for system in self.surrogates])
        cast = furthest_cast(drawn.to(run.device), images, encoder)
        with torch.no_grad():
            clean = run.encode(images)
            moved = run.encode((images + SIZE * cast).clamp(0, 1))
        way = (moved - clean).float().mean(dim=(0, 2, 3))
        tensors = {
            DIRECTION: way / way.square().sum(),
            MIDDLE: clean.float().mean(dim=(2, 3)),
        }
        return Features(tensors=tensors)

    def _drawings(self, run: Run, subject: Subject, system: str) -> Tensor:
        token = subject.concept.token
        prompts = [p.replace("{token}", token) for p in self.prompts for _ in range(self.count)]

        def make() -> dict[str, Tensor]:
            run.log(f"personalising by {system}, to see what it draws")
            return {"images": run.draw_personalized(system, subject, prompts, seed=run.seed)}

        # pictures of one name may be others the next time that a memory or a folder is used
        seen = hashlib.sha256(b"".join(i.cpu().numpy().tobytes() for i in subject.images))
        name = "-".join(["drawn", seen.hexdigest()[:16], system, *prompts])
        return run.cached(name, make)["images"]

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
