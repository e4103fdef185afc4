"""A low-rank update against peft's own layers with the same factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from pcs_core.data import Site
from pcs_weights.lora import LowRank


class Two(nn.Module):
    """A linear layer and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 7)
        self.conv = nn.Conv2d(5, 6, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(x), self.conv(y)


@pytest.mark.parametrize("alpha", [4, 1])
def test_of_peft(alpha: int) -> None:
    torch.manual_seed(0)
    rank, plain = 4, Two()
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=["linear", "conv"], lora_dropout=0.0
    )
    x, y = torch.randn(3, 9, 12), torch.randn(3, 5, 8, 8)
    before = [t.detach().clone() for t in plain(x, y)]
    theirs: Any = get_peft_model(plain, config)
    layers = {name: theirs.base_model.model.get_submodule(name) for name in ("linear", "conv")}
    shapes = {"linear": (7, 12), "conv": (6, 5, 3, 3)}
    with torch.no_grad():
        for layer in layers.values():
            nn.init.normal_(layer.lora_B["default"].weight)
        expected = theirs(x, y)
    for name, inputs, answer, base in zip(layers, (x, y), expected, before, strict=True):
        a, b = (getattr(layers[name], f"lora_{n}")["default"].weight.detach() for n in "AB")
        kind = "conv" if name == "conv" else "linear"
        site = Site(name, "denoiser", kind, shape=shapes[name])
        edit = LowRank(site, a.reshape(1, rank, -1).clone(), alpha / rank)
        with torch.no_grad():
            edit.B.copy_(b.reshape(1, -1, rank))
            given = base + edit.residual(inputs, base, None)
        torch.testing.assert_close(given, answer, rtol=1e-5, atol=1e-5)
        assert (answer - base).abs().max() > 1e-2
