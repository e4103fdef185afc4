"""What a hook may return: wrong types, shapes and numbers are refused before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.data import LOSS, Features, Fusion, Loss, Masks, Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator

RETURNS: Mapping[str, tuple[type, str]] = {
    "mask": (Masks, "Masks({'name': tensor [n 1 h w]})"),
    "extract": (Features, "Features(...)"),
    "fuse": (Fusion, "Fusion(...)"),
    "regularize": (Loss, "Loss(name, value [b], weight=...), several of them, or None"),
    "sample": (Prediction, "Prediction(x0 [b c h w])"),
}


def complaint(hook: str, result: Any, arguments: Mapping[str, Any], *, wraps: bool = False) -> str:
    """Return what is wrong with the ``result`` of a hook that was called with ``arguments``, or "".

    ``wraps`` says that it is what a wrapper returned: all results inside, not one.
    """
    kind, right = RETURNS[hook]
    many = wraps and hook != "sample"
    if many and not isinstance(result, list):
        return f"its wrapper returned {_kind(result)}: return the list that `yield` gave, changed or not"
    if not many and result is None and not wraps:
        return ""
    items = list(result) if many or (hook == "regularize" and _is_sequence(result)) else [result]
    if many and hook == "regularize":  # each use inside gave one or several
        items = [loss for item in items for loss in (item if _is_sequence(item) else [item])]
    for item in items:
        if not isinstance(item, kind):
            verb = "its wrapper returned" if wraps else "it returned"
            return f"{verb} {_kind(item)}: return {right}"
    checks: Any = {"regularize": _loss, "mask": _masks, "extract": _features, "sample": _prediction}
    if hook not in checks:
        return ""
    return next((text for item in items for text in checks[hook](item, arguments)), "")


def _is_sequence(result: Any) -> bool:
    # a Loss is none, and a tensor has no terms
    return isinstance(result, list | tuple) and not isinstance(result, Prediction)


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _loss(loss: Loss, arguments: Mapping[str, Any]) -> Iterator[str]:
    step = arguments["step"]
    count = len(step.batch.roles)
    right = f"one value per row of the batch, shape [{count}], e.g. `.flatten(1).mean(1)`"
    if not isinstance(loss.value, torch.Tensor):
        yield f"the value of its loss {loss.name!r} is {_kind(loss.value)}: give a tensor, {right}"
    elif loss.value.dim() == 0:
        yield f"its loss {loss.name!r} is a scalar, a tensor without a batch dimension: give {right}"
    elif tuple(loss.value.shape) != (count,):
        yield f"its loss {loss.name!r} has shape {list(loss.value.shape)}: give {right}"
    elif loss.rows is not None and tuple(loss.rows.shape) != (count,):
        yield (
            f"the rows of its loss {loss.name!r} have shape {list(loss.rows.shape)}: give a bool for "
            f"each row of the batch, shape [{count}], as `step.batch.rows(role)` does"
        )
    elif step.index == 0 and not bool(torch.isfinite(loss.value.detach()).all()):
        # at the first step alone: reading a value waits for the device
        first = float(loss.value.detach()[~torch.isfinite(loss.value.detach())][0])
        yield (
            f"its loss {loss.name!r} is {first} at the first step of phase {step.phase!r}, before "
            "anything trained: it or what it reads (x0, the tape, features) is not finite"
        )


def _masks(masks: Masks, arguments: Mapping[str, Any]) -> Iterator[str]:
    query = arguments["query"]
    first = query.moment == "subject"
    count = len(query.subject.images) if first else len(query.step.batch.roles)
    what = "picture" if first else "row of the batch"
    for key, mask in masks.by_name.items():
        if not isinstance(mask, torch.Tensor):
            yield f"its mask {key!r} is {_kind(mask)}: give a tensor [{count} 1 h w]"
        elif mask.dim() != 4 or tuple(mask.shape[:2]) != (count, 1):
            yield (
                f"its mask {key!r} has shape {list(mask.shape)}: give [{count} 1 h w], one for each "
                f"{what}; h and w are query.size {tuple(query.size)}"
            )
        elif not first and tuple(mask.shape[2:]) != tuple(query.size):
            yield (
                f"its mask {key!r} is of size {list(mask.shape[2:])} at moment 'batch': give the size "
                f"of the latents, query.size {tuple(query.size)}"
            )
        elif not bool(torch.isfinite(mask).all()) or float(mask.min()) < 0:
            yield f"its mask {key!r} has values that are negative or not finite"
        elif first and key != LOSS and float(mask.max()) > 1:
            yield (
                f"its mask {key!r} has values up to {float(mask.max()):g}: give values in [0, 1] "
                "(divide a picture of bytes by 255)"
            )


def _features(features: Features, arguments: Mapping[str, Any]) -> Iterator[str]:
    for key, value in features.tensors.items():
        if not isinstance(value, torch.Tensor):
            yield f"its feature {key!r} is {_kind(value)}: give a tensor, without a subject axis"
    for key in features.keep:
        if key not in features.tensors:
            known = ", ".join(features.tensors) or "none"
            yield f"it keeps the feature {key!r}, which it does not give (it gives: {known})"


def _prediction(prediction: Prediction, arguments: Mapping[str, Any]) -> Iterator[str]:
    shape = tuple(arguments["step"].latents.shape)
    if not isinstance(prediction.x0, torch.Tensor):
        yield f"its prediction is {_kind(prediction.x0)}: give x0, a tensor"
    elif prediction.x0.shape[0] != shape[0] or tuple(prediction.x0.shape[2:]) != shape[2:]:
        # channels may differ: of tokens, x0 are logits
        yield f"its prediction has shape {list(prediction.x0.shape)}, the latents {list(shape)}"
