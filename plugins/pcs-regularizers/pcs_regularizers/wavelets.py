"""Daubechies' orthogonal wavelets, and the bands of a picture that they let pass."""

from __future__ import annotations

from functools import lru_cache
from math import comb
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@lru_cache(maxsize=32)
def low_pass(moments: int) -> tuple[float, ...]:
    """Return the 2 * ``moments`` taps of the scaling filter with so many vanishing moments, of norm 1.

    By spectral factorisation with the roots inside of the unit circle (Daubechies, "Ten Lectures on Wavelets",
    section 6.1). Up to about 20 moments in fp64.
    """
    # |Q|^2 is a polynomial in y = (2 - z - 1/z) / 4, with the coefficients comb(moments - 1 + k, k)
    roots = np.roots([comb(moments - 1 + k, k) for k in reversed(range(moments))])
    taps = np.ones(1)
    for y in roots:
        pair = np.roots([1.0, 4.0 * y - 2.0, 1.0])
        taps = np.convolve(taps, [1.0, -pair[np.argmin(np.abs(pair))]])
    for _ in range(moments):
        taps = np.convolve(taps, [1.0, 1.0])
    taps = np.real(taps)
    return tuple((taps / np.linalg.norm(taps)).tolist())


def bands(x: Tensor, moments: int) -> Iterator[Tensor]:
    """Yield the three detail bands [b c h/2 w/2] of pictures [b c h w], which go on periodically."""
    low = torch.tensor(low_pass(moments), dtype=x.dtype, device=x.device)
    high = low.flip(0) * torch.tensor([1.0, -1.0], dtype=x.dtype, device=x.device).repeat(moments)
    spectrum = torch.fft.fft2(x)
    for down, across in ((low, high), (high, low), (high, high)):
        there = _spectrum(down, x.shape[-2])[:, None] * _spectrum(across, x.shape[-1])[None, :]
        yield torch.fft.ifft2(spectrum * there).real[..., ::2, ::2]


def _spectrum(taps: Tensor, size: int) -> Tensor:
    """Return the spectrum [size] of a filter, wrapped where it is longer."""
    wrapped = taps.new_zeros(size).index_add(
        0, torch.arange(len(taps), device=taps.device) % size, taps
    )
    return torch.fft.fft(wrapped)
