"""Updates that are no plain product of two factors, by LyCORIS' names: what each is, and its settings."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Site
    from pcs_formats.layer_parts import LayerParts

ADDED, WHOLE = "weights.imported", "weights.imported_weight"
"""Techniques of updates that are added to a layer, and of those that have its weight to themselves."""
Shape = tuple[int, ...]
Described = tuple[dict[str, Any], Shape, int, tuple[str, ...]]
LENGTHS = ("dora_scale", "magnitude")
"""Lengths of the changed weight's rows or columns: LyCORIS' and peft's."""
OPTIONAL = {"alpha", *LENGTHS}


def other_form(
    site: Site, layer: LayerParts, alpha: float | None
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Return the technique of one layer's update, its settings, and its tensors by parameter.

    Raises
    ------
    InputError
        A part is missing or of no such form, or the shapes are of another layer.
    """
    parts = {k: t.float() for k, t in layer.parts.items()}
    if (form := shape_of(parts, site.shape)) is not None:
        settings, whole, rank, used = form
        check(site, layer, set(parts) - OPTIONAL, used, whole)
        tensors = {part: parts[part] for part in used if part != "diff_b" and part != "b_norm"}
        scale = 1.0 if rank == 0 or not alpha else alpha / rank
        if settings["kind"] == "oft":
            scale = alpha or 0.0
        bias = next((parts[part] for part in ("diff_b", "b_norm") if part in parts), None)
        if bias is not None:
            tensors |= {"bias": bias, "strength_bias": torch.tensor(1.0)}
            settings["bias"] = True
        if lengths := [part for part in LENGTHS if part in parts]:
            settings["magnitude"], tensors["magnitude"] = magnitude(site, layer, lengths[0])
        tensors |= {"scale": torch.tensor(scale), "strength": torch.tensor(1.0)}
        whole_weight = "magnitude" in settings or settings["kind"] in ("norm", "oft")
        return WHOLE if whole_weight else ADDED, settings, tensors
    raise InputError(
        f"the layer of {next(iter(layer.keys.values()))!r} holds {', '.join(sorted(layer.parts))}: no update "
        "of a layer that is known here is so"
    )


def shape_of(parts: dict[str, Tensor], layer: Shape) -> Described | None:
    """Return the form of ``parts``, or None: settings, the layer's shape by it, its rank, and its parts.

    A rank of 0 says that alpha means nothing there.
    """
    if {"down", "up"} <= parts.keys():
        down, up, mid = parts["down"], parts["up"], parts.get("mid")
        kernel = tuple((down if mid is None else mid).shape[2:])
        rank, names = down.shape[0], ("down", "up") if mid is None else ("down", "mid", "up")
        settings = {"kind": "lora", "rank": rank, "tucker": mid is not None}
        return settings, (up.shape[0], down.shape[1], *kernel), rank, names
    if "hada_w1_a" in parts:
        return _loha(parts, layer)
    if {"lokr_w1", "lokr_w1_a"} & parts.keys():
        return _lokr(parts, layer)
    if "oft_blocks" in parts and parts["oft_blocks"].dim() == 3:
        count, side, _ = parts["oft_blocks"].shape
        settings = {"kind": "oft", "rank": side, "rescaled": "rescale" in parts}
        used = ("oft_blocks", *(["rescale"] if "rescale" in parts else []))
        return settings, (count * side, *layer[1:]), 0, used
    for kind, name, bias in (("full", "diff", "diff_b"), ("norm", "w_norm", "b_norm")):
        if name in parts:
            used = (name, *([bias] if bias in parts else []))
            return {"kind": kind}, tuple(parts[name].shape), 0, used
    return None


def _loha(parts: dict[str, Tensor], layer: Shape) -> Described | None:
    names = tuple(f"hada_w{n}_{k}" for n in (1, 2) for k in "ab")
    core = parts.get("hada_t1")
    cores = () if core is None else ("hada_t1", "hada_t2")
    if not {*names, *cores} <= parts.keys():
        return None
    a, b = parts["hada_w1_a"], parts["hada_w1_b"]
    rank = b.shape[0]
    if core is not None:
        whole: Shape = (a.shape[1], b.shape[1], *core.shape[2:])
    else:
        kernel = layer[2:]
        whole = (a.shape[0], b.shape[1] // max(prod(kernel), 1), *kernel)
    settings = {"kind": "loha", "rank": rank, "tucker": core is not None}
    return settings, whole, rank, (*names, *cores)


def _lokr(parts: dict[str, Tensor], layer: Shape) -> Described | None:
    factored = [n for n, key in (("first", "lokr_w1"), ("second", "lokr_w2")) if key not in parts]
    used = tuple(
        name
        for n, which in ((1, "first"), (2, "second"))
        for name in ([f"lokr_w{n}_a", f"lokr_w{n}_b"] if which in factored else [f"lokr_w{n}"])
    ) + (("lokr_t2",) if "lokr_t2" in parts else ())
    if not set(used) <= parts.keys():
        return None
    first = (
        (parts["lokr_w1_a"].shape[0], parts["lokr_w1_b"].shape[1])
        if "first" in factored
        else tuple(parts["lokr_w1"].shape)
    )
    kernel = layer[2:]
    if "second" not in factored:
        second = tuple(parts["lokr_w2"].shape)
    elif "lokr_t2" in parts:
        sides = (parts["lokr_w2_a"].shape[1], parts["lokr_w2_b"].shape[1])
        second = (*sides, *parts["lokr_t2"].shape[2:])
    else:
        columns = parts["lokr_w2_b"].shape[1] // max(prod(kernel), 1)
        second = (parts["lokr_w2_a"].shape[0], columns, *kernel)
    rank = next((parts[k].shape[0] for k in ("lokr_w2_b", "lokr_w1_b") if k in parts), 0)
    settings = {
        "kind": "lokr",
        "rank": max(rank, 1),
        "tucker": "lokr_t2" in parts,
        "first": list(first),
        "factored": "both" if len(factored) == 2 else "".join(factored),
    }
    return settings, (first[0] * second[0], first[1] * second[1], *second[2:]), rank, used


def check(
    site: Site, layer: LayerParts, present: set[str], used: tuple[str, ...], whole: Shape
) -> None:
    """Refuse parts that the form does not have, and a form of another layer's shape.

    Raises
    ------
    InputError
        Names the key.
    """
    if surplus := sorted(present - set(used)):
        raise InputError(
            f"{layer.keys[surplus[0]]!r} is left over: beside {', '.join(used)} nothing reads it"
        )
    if whole != site.shape:
        sizes = [" x ".join(map(str, shape)) for shape in (whole, site.shape)]
        raise InputError(
            f"{layer.keys[used[0]]!r} is of a layer of {sizes[0]}, and this network's is {sizes[1]}: it is "
            "made for another base"
        )


def magnitude(site: Site, layer: LayerParts, part: str) -> tuple[str, Tensor]:
    """Return whose lengths they are ("rows", "columns", "peft"), and the lengths [n].

    Raises
    ------
    InputError
        They are of neither.
    """
    lengths = layer.parts[part].float()
    out, inner = site.shape[0], site.shape[1] if len(site.shape) > 1 else 0
    if part == "magnitude" and lengths.numel() == out:
        return "peft", lengths.flatten()
    if part == "dora_scale" and lengths.numel() == lengths.shape[0] == out:
        return "rows", lengths.flatten()
    if part == "dora_scale" and lengths.dim() > 1 and lengths.numel() == lengths.shape[1] == inner:
        return "columns", lengths.flatten()
    shape = " x ".join(map(str, lengths.shape))
    raise InputError(
        f"{layer.keys[part]!r} is {shape}: neither a number per row ({out}) nor per column ({inner})"
    )
