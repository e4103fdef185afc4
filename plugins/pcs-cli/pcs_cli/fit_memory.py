"""The memory that a fit takes, as far as it is known before it runs: what ``--dry-run`` says of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pcs_cli.fit_keeping import megabytes

if TYPE_CHECKING:
    from pcs_cli.fit_plan import FitPlan

NUMBER = 4
"""Bytes of a number in full precision."""
TRAINING = 4
"""Numbers to each that trains: itself, its gradient and the two moments of the usual optimizers."""


def memory_line(plan: FitPlan) -> str:
    """Return what weights, what trains, and pictures take; what a step keeps depends on its rows alone."""
    weights = sum(
        tensor.numel() * tensor.element_size()
        for part in plan.backbone.parts.values()
        for tensor in part.parameters()
    )
    trained = trained_numbers(plan)
    training = (
        "what trains is known in the fit"
        if trained is None
        else f"what trains with its optimizer {megabytes(trained * TRAINING * NUMBER)}"
    )
    pictures = megabytes(picture_bytes(plan))
    return (
        f"memory: weights {megabytes(weights)}, {further(plan)}{training}, pictures at most {pictures}; on top "
        f"what a step keeps of {rows_of_a_step(plan)} rows at a time, however many pictures there are"
    )


def further(plan: FitPlan) -> str:
    """Return what the further models of the recipe take, as the middle of a sentence; "" without any.

    Each network is opened to be measured, and let go. What a system learns that is fitted first is small or as
    large as a full fine-tuning: it is named, for nothing of it is there yet.
    """
    from pathlib import Path

    from pcs_engine import open_backbone
    from pcs_engine.further import beside_recipe

    parts = []
    for model in plan.recipe.models:
        size, later = 0, ""
        if model.backbone:
            opened = open_backbone(model.backbone, device="cpu")
            if opened.card.hash != plan.backbone.card.hash:
                size += sum(
                    tensor.numel() * tensor.element_size()
                    for part in opened.parts.values()
                    for tensor in part.parameters()
                )
        if model.artifact:
            folder = Path(beside_recipe(plan.recipe, model, "artifact"))
            size += sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        if model.system:
            later = f" and what {model.system} learns first"
        parts.append(f"model {model.name!r} {megabytes(size)}{later}, ")
    return "".join(parts)


def trained_numbers(plan: FitPlan) -> int | None:
    """Return how many numbers the edits own; None where a technique must see the pictures first."""
    from pcs_cli.edits import overview

    try:
        numbers = sum(row.numbers for row in overview(plan.recipe, plan.backbone))
    except Exception:  # whatever a technique raises without its features
        return None
    return numbers * len(plan.subjects)


def picture_bytes(plan: FitPlan) -> int:
    """Return the most that pictures take: latents of all, those that are encoded at a time, one as it is read.

    Pictures that are read later are there one at a time.
    """
    from pcs_core.data.later import Later, entries_of
    from pcs_engine.pools import encoded_together

    height, width = plan.backbone.card.size
    images = [image for subject in plan.subjects for image in entries_of(subject.images)]
    shown = [3 * height * width * (image.shape[1] if image.dim() == 4 else 1) for image in images]
    read = [math.prod(image.shape) for image in images if isinstance(image, Later)]
    there = sum(image.numel() for image in images if not isinstance(image, Later))
    latents = 2 * math.prod(plan.backbone.latent_shape) * len(images)
    together = sorted(shown, reverse=True)[: encoded_together((height, width))] if read else shown
    return (there + latents + sum(together) + max(read, default=0)) * NUMBER


def rows_of_a_step(plan: FitPlan) -> int:
    """Return the most rows that any phase shows the network at a time; of "all", the most pictures."""
    most = max((len(subject.images) for subject in plan.subjects), default=0)
    phases = [phase for phase in plan.recipe.phases if phase.steps and not phase.pretrain]
    rows = [sum(n if n >= 0 else most for n in phase.batch.values()) for phase in phases]
    return max(rows, default=0) * max(1, len(plan.subjects))
