"""Our parameterisations with the weights of others': peft's LoRA, and SVDiff's formula written anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pcs_core.data import Site
from pcs_weights.lora import LowRank
from pcs_weights.svd import SpectralShift

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


class One(nn.Module):
    """One layer under a name."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


@pytest.mark.parametrize(("width", "out"), [(320, 320), (768, 1280), (1280, 640)])
def test_lora_is_pefts_at_the_same_factors(width: int, out: int) -> None:
    import peft

    torch.manual_seed(0)
    root = One(nn.Linear(width, out))
    base = root.layer.weight.detach().clone()  # type: ignore[operator, union-attr]
    site = Site("layer", "denoiser", "linear", shape=tuple(base.shape))
    ours = LowRank(site, torch.randn(1, 4, width) / 4, scale=8 / 4)
    with torch.no_grad():
        ours.B.copy_(0.1 * torch.randn(ours.B.shape))
    x = torch.randn(2, 7, width)
    expected = ours.residual(x, root.layer(x), None) + root.layer(x)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["layer"])
    peft.inject_adapter_in_model(config, root)
    with torch.no_grad():
        root.layer.lora_A["default"].weight.copy_(ours.A[0])  # type: ignore[index, union-attr]
        root.layer.lora_B["default"].weight.copy_(ours.B[0])  # type: ignore[index, union-attr]
    torch.testing.assert_close(root.layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(320, 768), (320, 4, 3, 3), (1280,)])
def test_a_spectral_shift_is_the_papers_formula(shape: tuple[int, ...]) -> None:
    """U diag(relu(s + d)) V^T of the matrix [out, in k k], a vector being one row (section 3.2)."""
    torch.manual_seed(0)
    weight = torch.randn(shape) * 0.05
    edit = SpectralShift(Site("layer", "denoiser", "linear", shape=shape), weight, 1.0)
    # some values fall below zero; smooth, as vectors of values side by side are known only together
    shift = torch.linspace(0.5, -1.0, edit.shift.numel()) if len(shape) > 1 else torch.tensor([0.3])
    with torch.no_grad():
        edit.shift.copy_(shift)
    flat = weight.double().reshape(1, -1) if len(shape) == 1 else weight.double().flatten(1)
    left, values, right = torch.linalg.svd(flat, full_matrices=False)
    assert (values + shift.double()).min() < 0 or len(shape) == 1
    moved = (values + shift.double()).clamp_min(0)
    expected = (left @ torch.diag(moved) @ right).reshape(shape)
    torch.testing.assert_close(edit.weight(weight).double(), expected, rtol=1e-5, atol=1e-5)
