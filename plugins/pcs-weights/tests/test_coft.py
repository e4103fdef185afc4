"""COFT at the widths of real networks: how far a rotation may turn, against the authors' formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pcs_core.data import Site
from pcs_weights.injection import Injected
from pcs_weights.parameterised import Peft, widen

EPS = 6e-5
"""The authors' script (oft-db/train_dreambooth_oft.sh)."""
WIDTHS = (320, 640, 768, 1280)
"""Inputs of the attention projections of SD 1.5; SDXL has 640, 1280 and 2048."""

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


class Layer(nn.Module):
    """One projection under a name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, 32, bias=False)


def injected(root: nn.Module, technique: Peft) -> Any:
    """Return the edit that the technique makes of one projection, with no backbone around it."""
    layer = root.get_submodule("to_q")
    site = Site("to_q", "denoiser", "linear", shape=tuple(layer.weight.shape))

    class Run:
        """What `fuse` asks for."""

        backbone = type("Backbone", (), {"parts": {"denoiser": root}})

        def sites(self, *_: Any) -> tuple[Site, ...]:
            return (site,)

        def init_rng(self, *_: Any) -> torch.Generator:
            return torch.Generator().manual_seed(0)

    fusion: Any = technique.fuse(Run())  # type: ignore[arg-type]
    (edit,) = fusion.edits
    assert isinstance(edit, Injected)
    return edit


def authors(raw: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Any:
    """Return the projected matrices and the output, by the formulas of oft_utils/attention_processor.py.

    ``raw`` [r n n] are the free matrices R; their distance from 0 is bounded by eps n^2 / sqrt(r), S is their
    skew-symmetric half, the rotation (I - S) (I + S)^-1 multiplies the transposed weight from the left.
    """
    blocks, size, _ = raw.shape
    bound = eps * size**2 / blocks**0.5
    norms = raw.flatten(1).norm(dim=1)
    projected = raw * (bound / norms).clamp(max=1.0)[:, None, None]
    skew = 0.5 * (projected - projected.mT)
    eye = torch.eye(size, dtype=raw.dtype)
    turned = torch.stack([(eye - s) @ torch.linalg.inv(eye + s) for s in skew])
    return projected, turned, x @ (torch.block_diag(*turned) @ weight.T)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_rotation_reaches_the_authors_radius_and_no_more(width: int) -> None:
    torch.manual_seed(0)
    root = Layer(width)
    weight = root.to_q.weight.detach().double()
    edit = injected(root, Peft(kind="oft", blocks=4, coft=True, eps=EPS))
    size = width // 4
    (vector,) = edit.owned().values()
    with torch.no_grad():  # any state that a fit might reach: far outside, but for one block
        vector.copy_(torch.randn(vector.shape))
        vector[3] *= 1e-6
    rows, columns = torch.triu_indices(size, size, 1)
    raw = torch.zeros(4, size, size, dtype=torch.float64)
    raw[:, rows, columns] = vector.detach().double()
    raw = raw - raw.mT
    x = torch.randn(5, width)
    projected, turned, expected = authors(raw, x.double(), weight, EPS)
    edit.inject(root)
    with torch.no_grad():
        ours = root.to_q(x)
    edit.eject(root)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)
    reached = (2 * vector.detach().double().square().sum(1)).sqrt()
    torch.testing.assert_close(reached, projected.flatten(1).norm(dim=1), rtol=1e-4, atol=1e-7)
    radius = EPS * size**2 / 2
    assert reached[0] == pytest.approx(radius, rel=1e-4)
    # what that is of a rotation: |R - I| = 2 |S (I + S)^-1|, close to twice the radius while that is small
    eye = torch.eye(size, dtype=torch.float64)
    distance = (turned[0] - eye).norm().item()
    assert 0.3 * radius < distance <= 2 * radius * (1 + 1e-6)
    assert distance > 0.3, "as peft reads eps it would be 6e-5: nothing turns"


def test_the_budget_of_the_script_by_width() -> None:
    radii = {width: EPS * (width // 4) ** 2 / 2 for width in WIDTHS}
    assert radii[320] == pytest.approx(0.192)
    assert radii[1280] == pytest.approx(3.072)


def test_a_shared_rotation_has_the_whole_radius() -> None:
    root = Layer(320)
    edit = injected(root, Peft(kind="oft", blocks=4, coft=True, block_share=True, eps=EPS))
    (vector,) = edit.owned().values()
    with torch.no_grad():
        vector.copy_(torch.randn(vector.shape))
    edit.inject(root)
    with torch.no_grad():
        root.to_q(torch.randn(1, 320))
    edit.eject(root)
    reached = (2 * vector.detach().square().sum()).sqrt()
    assert reached.item() == pytest.approx(EPS * 80**2, rel=1e-4)


def test_what_an_earlier_version_held_closer_is_drawn_as_it_was() -> None:
    """Weights within peft's own radius are within this one: the projection leaves them alone."""
    root = Layer(320)
    edit = injected(root, Peft(kind="oft", blocks=4, coft=True, eps=EPS))
    (vector,) = edit.owned().values()
    with torch.no_grad():
        vector.copy_(torch.randn(vector.shape))
        vector *= EPS / 2 / (2 * vector.square().sum(1, keepdim=True)).sqrt()
    before = vector.detach().clone()
    edit.inject(root)
    with torch.no_grad():
        root.to_q(torch.randn(1, 320))
    edit.eject(root)
    assert torch.equal(vector.detach(), before)


def test_the_radius_is_set_anew_at_every_injection() -> None:
    root = Layer(640)
    edit = injected(root, Peft(kind="oft", blocks=4, coft=True, eps=EPS))
    for _ in range(2):
        edit.inject(root)
        (rotation,) = root.to_q.oft_R.values()  # type: ignore[union-attr, operator]
        assert rotation.eps == pytest.approx(EPS * 160**2)
        edit.eject(root)
    assert widen.__doc__
