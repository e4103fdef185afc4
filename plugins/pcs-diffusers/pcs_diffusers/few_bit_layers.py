"""Layers whose weights stay in float8 between a step's forward and its backward.

diffusers' layerwise casting swaps a layer's weights for bfloat16 ones while the layer computes. Backward comes
later, and needs the weight for the gradient by the input,

    y = W x   =>   dL/dx = W^T dL/dy,

but finds what the layer holds then: float8, with which no backend multiplies (convolutions on a GPU and on CPUs
without AVX-512 fail), or, where autograd kept a view of the swapped weight, a second copy of the network in
bfloat16. The functions here remember the float8 weight itself and bring it to bfloat16 twice, once in each
direction: the same numbers, and one byte a number for the whole step.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import grad as by_hand

HOOK = "layerwise_casting"
"""What diffusers calls its hook on a layer."""
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def keep_in_few_bits(network: nn.Module) -> None:
    """Let the layers that diffusers' layerwise casting stores compute without swapping their weights.

    A layer of another kind, or with a padding other than zeros, keeps diffusers' forward.
    """
    for layer in network.modules():
        registry = getattr(layer, "_diffusers_hook", None)
        hook = None if registry is None else registry.get_hook(HOOK)
        if hook is None or not isinstance(layer, KINDS):
            continue
        if isinstance(layer, nn.Linear):
            layer.forward = MethodType(_matrix, layer)  # type: ignore[method-assign]
        elif layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.forward = MethodType(_convolution, layer)  # type: ignore[method-assign]


def _matrix(
    layer: nn.Linear, input: Tensor
) -> Tensor:  # by its own name: motion modules give it so
    dtype = _dtype(layer)
    output: Tensor = _Matrix.apply(input, layer.weight, _bias(layer, dtype), dtype)
    return output


def _convolution(layer: Any, input: Tensor) -> Tensor:
    dtype = _dtype(layer)
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    output: Tensor = _Convolution.apply(input, layer.weight, _bias(layer, dtype), dtype, how)
    return output


def _dtype(layer: Any) -> torch.dtype:
    dtype: torch.dtype = layer._diffusers_hook.get_hook(HOOK).compute_dtype
    return dtype


def _bias(layer: Any, dtype: torch.dtype) -> Tensor | None:
    return None if layer.bias is None else layer.bias.to(dtype)


class _Matrix(Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.computed, ctx.given = dtype, x.dtype
        return nn.functional.linear(x, weight.to(dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        dtype = ctx.computed
        return (gradient.to(dtype) @ weight.to(dtype)).to(ctx.given), None, None, None


class _Convolution(Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        how: tuple[Any, ...],
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.computed, ctx.given, ctx.shape, ctx.how = dtype, x.dtype, x.shape, how
        convolve = getattr(nn.functional, f"conv{x.dim() - 2}d")
        output: Tensor = convolve(x, weight.to(dtype), bias, *how)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        dtype = ctx.computed
        by_input = getattr(by_hand, f"conv{gradient.dim() - 2}d_input")
        moved = by_input(ctx.shape, weight.to(dtype), gradient.to(dtype), *ctx.how)
        return moved.to(ctx.given), None, None, None, None
