"""Shapes: a stage returns what it was given in the same shape, a stacked edit has a row per subject."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment
from pcs_core.data import AttnEdit, BlockEdit, Edit, LayerEdit, WeightEdit
from pcs_testing.edit_tensors import edits_of
from pcs_testing.fixtures import perturb

if TYPE_CHECKING:
    from pcs_testing.case import Case

KINDS = (AttnEdit, BlockEdit, LayerEdit, WeightEdit)
"""Edits inside the network."""
LOOSE = ("call", "extra")
"""Stages that may give another shape: the wrapper of a layer, and further keys and values."""


def stages_keep_shapes(case: Case) -> None:
    """Each stage inside the network gives back the shape that it was given, parameters have their subjects."""
    backbone, fusion = case.open(), case.fusion()
    for edit in edits_of(case, fusion):
        for name, tensor in edit.owned().items() if edit.stacked else ():
            assert tensor.shape[:1] == (1,), (
                f"{type(edit).__name__} says `stacked=True`, and its {name} has shape {list(tensor.shape)} for "
                "one subject: the first axis is the subjects', [S, ...]"
            )
    perturb(fusion)
    for edit in edits_of(case, fusion):
        if isinstance(edit, KINDS) and edit.stage() not in LOOSE:
            stage = edit.stage()
            setattr(edit, stage, _compared(edit, stage, getattr(edit, stage)))
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        case.look(net, [case.prompt()])


def _compared(edit: Edit, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def compare(*arguments: Any, **more: Any) -> Any:
        # of a residual the second argument is what it is added to
        given = _shapes(arguments[1] if stage == "residual" else arguments[0], stage)
        returned = function(*arguments, **more)
        for name, shape in _shapes(returned, stage).items():
            # None: the stage is the first to give such a tensor
            assert shape == given.get(name, shape), (
                f"{type(edit).__name__}.{stage} at {edit.name!r} is given {name} of shape {given[name]} "
                f"and returns {shape}: return the shape that came in"
            )
        return returned

    return compare


def _shapes(value: Any, stage: str) -> dict[str, list[int]]:
    if isinstance(value, torch.Tensor):
        return {"a tensor": list(value.shape)}
    names = ("q",) if stage == "qkv" else (stage,)
    tensors = {name: getattr(value, name, None) for name in names}
    return {name: list(t.shape) for name, t in tensors.items() if t is not None}
