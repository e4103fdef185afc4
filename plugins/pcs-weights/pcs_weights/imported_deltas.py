"""What an update's tensors make of a weight, by the names and shapes of LyCORIS (arXiv:2309.14859)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


def shapes_of(
    kind: str,
    layer: Shape,
    rank: int,
    *,
    tucker: bool = False,
    first: tuple[int, int] = (1, 1),
    factored: str = "",
    rescaled: bool = False,
) -> dict[str, Shape]:
    """Return the tensors of an update of a ``layer`` [out in (k k)] by name.

    Raises
    ------
    ValueError
        The layer's numbers are not divisible as the form asks.
    """
    out, kernel = layer[0], layer[2:]
    ones = tuple(1 for _ in kernel)
    if kind == "norm":
        return {"w_norm": layer}
    if kind == "full":
        return {"diff": layer}
    if kind == "oft":
        if out % rank:
            raise ValueError(f"blocks of {rank} do not divide its {out} rows")
        rescale = {"rescale": (out, *(1 for _ in layer[1:]))} if rescaled else {}
        return {"oft_blocks": (out // rank, rank, rank), **rescale}
    inner = layer[1]
    if kind == "lora":
        if not tucker:
            return {"down": (rank, inner, *kernel), "up": (out, rank, *ones)}
        return {
            "down": (rank, inner, *ones),
            "mid": (rank, rank, *kernel),
            "up": (out, rank, *ones),
        }
    if kind == "loha":
        if tucker:
            factors = {"t": (rank, rank, *kernel), "w_a": (rank, out), "w_b": (rank, inner)}
        else:
            factors = {"w_a": (out, rank), "w_b": (rank, inner * prod(kernel))}
        return {
            f"hada_{name[0]}{number}{name[1:]}": shape
            for number in (1, 2)
            for name, shape in factors.items()
        }
    return _of_lokr((out, inner), kernel, rank, first, factored, tucker)


def _of_lokr(
    layer: tuple[int, int],
    kernel: Shape,
    rank: int,
    first: tuple[int, int],
    factored: str,
    tucker: bool,
) -> dict[str, Shape]:
    for count, divisor in zip(layer, first, strict=True):
        if count % divisor:
            raise ValueError(f"a first factor of {first} does not divide its {layer}")
    b, d = layer[0] // first[0], layer[1] // first[1]
    if factored in ("first", "both"):
        shapes: dict[str, Shape] = {"lokr_w1_a": (first[0], rank), "lokr_w1_b": (rank, first[1])}
    else:
        shapes = {"lokr_w1": first}
    if factored not in ("second", "both"):
        return {**shapes, "lokr_w2": (b, d, *kernel)}
    if tucker:
        core = {"lokr_t2": (rank, rank, *kernel)}
        return {**shapes, **core, "lokr_w2_a": (rank, b), "lokr_w2_b": (rank, d)}
    return {**shapes, "lokr_w2_a": (b, rank), "lokr_w2_b": (rank, d * prod(kernel))}


def delta_of(parts: Mapping[str, Tensor], layer: Shape) -> Tensor:
    """Return the change [out in (k k)] of a ``layer``'s weight, before it is scaled."""
    if "diff" in parts:
        return parts["diff"]
    if "mid" in parts:
        up, down = parts["up"].flatten(1), parts["down"].flatten(1)
        return torch.einsum("rs...,or,si->oi...", parts["mid"], up, down).reshape(layer)
    if "down" in parts:
        return (parts["up"].flatten(1) @ parts["down"].flatten(1)).reshape(layer)
    if "hada_w1_a" in parts:
        return _half(parts, 1, layer) * _half(parts, 2, layer)
    return _kronecker(parts, layer)


def _half(parts: Mapping[str, Tensor], number: int, layer: Shape) -> Tensor:
    """Return one of the two products whose elements LoHa multiplies."""
    a, b = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
    core = parts.get(f"hada_t{number}")
    if core is None:
        return (a @ b).reshape(layer)
    return torch.einsum("rs...,ro,si->oi...", core, a, b).reshape(layer)


def _kronecker(parts: Mapping[str, Tensor], layer: Shape) -> Tensor:
    first = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_w2" in parts:
        second = parts["lokr_w2"]
    elif "lokr_t2" in parts:
        second = torch.einsum(
            "rs...,ro,si->oi...", parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"]
        )
    else:
        second = parts["lokr_w2_a"] @ parts["lokr_w2_b"]
        second = second.reshape(len(second), layer[1] // first.shape[1], *layer[2:])
    # [a 1 c 1 ...] * [1 b 1 d ...]: the Kronecker product of two maps, beside a kernel
    first = first.reshape(first.shape[0], 1, first.shape[1], 1, *[1] * (second.dim() - 2))
    second = second.reshape(1, second.shape[0], 1, second.shape[1], *second.shape[2:])
    return (first * second).reshape(layer)


def rotated(base: Tensor, parts: Mapping[str, Tensor], bound: Tensor, strength: Tensor) -> Tensor:
    """Return W [out in (k k)] with its rows rotated in blocks, by Cayley's map of each block (OFT).

    All generators together are no longer than ``bound`` times the rows, where that is above zero. ``strength``
    stands between no rotation and the whole one.
    """
    blocks = parts["oft_blocks"]
    generator = blocks - blocks.transpose(1, 2)
    length, most = generator.norm() + 1e-8, bound * len(base)
    factor = torch.where((bound > 0) & (length > most), most / length, torch.ones_like(length))
    generator = generator * factor
    one = torch.eye(blocks.shape[1], dtype=base.dtype, device=base.device)
    rotation = torch.linalg.solve(one - generator, one + generator, left=False)
    mixed = strength * rotation + (1 - strength) * one
    grouped = base.reshape(len(blocks), blocks.shape[1], -1)
    turned = torch.einsum("knm,knx->kmx", mixed, grouped).reshape(base.shape)
    return parts["rescale"] * turned if "rescale" in parts else turned
