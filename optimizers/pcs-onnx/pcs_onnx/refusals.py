"""What cannot become a graph, refused by name before minutes are spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core.data import BranchEdit, InjectEdit, ReplaceEdit, TokenEdit
from pcs_core.errors import CapabilityError
from pcs_onnx.edits import input_name, tensors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pcs_core.backbone import Attachment
    from pcs_core.data import Edit


def check(net: Attachment, baked: Collection[str] = ()) -> None:
    """Refuse a plan that a graph cannot hold.

    Raises
    ------
    CapabilityError
        Names the use and what stands in the way.
    """
    reason = next(reasons(net, baked), None)
    if reason is not None:
        raise CapabilityError(f"this system cannot be exported to ONNX: {reason}")


def reasons(net: Attachment, baked: Collection[str] = ()) -> Iterator[str]:
    """Yield why not, a line each; ``baked`` tensors are the same for every subject."""
    fusion, shape = net.fusion, net.backbone.latent_shape
    if len(shape) != 3 or not net.backbone.process.continuous:
        yield f"backbone {net.backbone.card.id!r} does not draw pictures from noise"
    for swap in fusion.of(ReplaceEdit):
        if {f"{swap.owner}/{swap.part}/{path}" for path in swap.paths} <= set(baked):
            continue  # pre-trained: the same weights for every subject
        yield (
            f"{swap.owner!r} replaces weights of the {swap.part} itself, which a graph for every "
            "subject holds as constants: weights.lora trains what can be an input"
        )
    for injection in fusion.of(InjectEdit):
        yield f"{injection.owner!r} changes layers of the {injection.part} through another library"
    for token in fusion.of(TokenEdit):
        if token.timed:
            yield f"{token.owner!r} says another word at each noise level (a timed token)"
        if token.untuned:
            yield (
                f"{token.owner!r} has the base read each prompt a second time, with another word in the place "
                "of the subject's (weights.key_locked: locking = 'word' does without)"
            )
    for branch in fusion.of(BranchEdit)[1:]:
        yield f"{branch.owner!r} is a second control branch, and one has a graph"
    for branch in fusion.of(BranchEdit):
        if not {input_name(branch, path) for path in tensors(branch)} <= set(baked):
            yield f"{branch.owner!r} trains a control network of its own for each subject"
    for edit in fusion.edits:
        if edit.ACROSS_STEPS:
            yield across_steps(edit)
    for row in fusion.rows:
        yield f"the added picture {row.role!r} shares attention with the others of its batch"
    for part in net.backbone.parts:
        for edit in fusion.inside(part):
            yield from _windowed(edit)
    for edit in fusion.inside("vae"):
        yield f"{edit.owner!r} edits the VAE"
    if net.backbone.dtype.itemsize != 4:
        yield f"backbone {net.backbone.card.id!r} runs in {net.backbone.dtype}: only fp32 is exported"


def across_steps(edit: Edit) -> str:
    """Return why ``edit`` is no part of a graph."""
    return (
        f"{edit.owner!r} keeps what the network said in one step for later ones, which no graph does: "
        "leave it out, or draw on the backbone itself"
    )


def _windowed(edit: Edit) -> Iterator[str]:
    if edit.mode != "fit" and (edit.start > 0.0 or edit.stop < 1.0):
        yield (
            f"{edit.owner!r} acts in a part of the sampling only ({edit.start:g} to {edit.stop:g}), "
            "decided by Python in each step"
        )
