"""Wavelets by their tables and properties, kurtosis by scipy, and the spread of known pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pcs_core import fit
from pcs_core.backbone import Backbone
from pcs_core.data import Phase
from pcs_regularizers.kurtosis import Kurtosis, kurtosis, spread
from pcs_regularizers.wavelets import bands, low_pass
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe


def test_the_first_wavelets_are_those_in_closed_form() -> None:
    assert low_pass(1) == pytest.approx([1 / math.sqrt(2)] * 2)
    root = math.sqrt(3)
    taps = [1 + root, 3 + root, 3 - root, 1 - root]
    assert low_pass(2) == pytest.approx([t / (4 * math.sqrt(2)) for t in taps])


@pytest.mark.parametrize("moments", range(1, 13))
def test_every_wavelet_is_orthonormal_and_has_its_moments(moments: int) -> None:
    taps = np.array(low_pass(moments))
    assert len(taps) == 2 * moments
    assert taps.sum() == pytest.approx(math.sqrt(2), abs=1e-8)
    for shift in range(moments):
        overlap = float((taps[2 * shift :] * taps[: len(taps) - 2 * shift]).sum())
        assert overlap == pytest.approx(float(shift == 0), abs=1e-6)
    high = taps[::-1] * (-1.0) ** np.arange(len(taps))
    places = np.arange(len(taps)) / len(taps)
    for power in range(min(moments, 5)):
        assert float((high * places**power).sum()) == pytest.approx(0.0, abs=1e-6)


def test_bands_of_haar_are_differences_of_neighbours() -> None:
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    across, down, both = bands(x, 1)
    assert across.shape == (2, 3, 3, 4)
    # a periodic picture: cell (0, 0) meets its neighbours at -1
    a, b, c, d = x[..., 0, 0], x[..., 0, -1], x[..., -1, 0], x[..., -1, -1]
    for band, expected in ((across, a - b + c - d), (down, a + b - c - d), (both, a - b - c + d)):
        torch.testing.assert_close(band[..., 0, 0].abs(), (expected / 2).abs())


def test_energy_of_all_bands_is_that_of_the_picture_but_for_its_coarse_half() -> None:
    """Orthonormal: what details hold is what is lost between a picture of noise and its low-pass half."""
    x = torch.randn(1, 1, 64, 64, dtype=torch.float64)
    for moments in (1, 3, 7):
        details = sum(float(band.square().sum()) for band in bands(x, moments))
        assert details == pytest.approx(0.75 * float(x.square().sum()), rel=0.05)


def test_kurtosis_is_pearsons() -> None:
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64) ** 3
    values = x.reshape(6, 72).numpy()
    expected = [((v - v.mean()) ** 4).mean() / ((v - v.mean()) ** 2).mean() ** 2 for v in values]
    torch.testing.assert_close(kurtosis(x).flatten(), torch.tensor(expected))
    assert float(kurtosis(torch.ones(1, 1, 4, 4)).abs().max()) == 0.0


def test_noise_is_alike_in_all_bands_and_a_picture_of_sparse_lines_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 3, 128, 128, generator=generator)
    lines = noise.clone()
    lines[..., 64] += 40.0  # one column: sparse across, nothing down
    kinds = (1, 2, 3)
    assert float(spread(noise, kinds).max()) < 0.5
    assert float(spread(lines, kinds).min()) > 5.0


def test_its_spread_is_largest_less_smallest_averaged_over_channels() -> None:
    x = torch.rand(2, 2, 16, 16)
    each = torch.stack([kurtosis(b) for m in (1, 4) for b in bands(x, m)])
    for row in range(2):
        ways = [float(each[:, row, c].max()) - float(each[:, row, c].min()) for c in range(2)]
        assert float(spread(x, (1, 4))[row]) == pytest.approx(sum(ways) / 2, rel=1e-5)


@pytest.mark.parametrize("space", ["pixels", "latents"])
def test_it_reaches_what_trains_through_the_prediction(backbone: Backbone, space: str) -> None:
    values = []
    for steps in (1, 12):
        phase = Phase("p", steps, batch={"subject": 2}, lr={"*": 0.02}, losses=("kurtosis",))
        term = Kurtosis(space=space, moments=(1, 2))  # type: ignore[arg-type]
        (artifact,) = fit(make_recipe([Probe(), term], phase), make_subject(), backbone)
        values.append(artifact.losses["kurtosis"])
    assert values[0] > 0
    assert values[1] != values[0]


def test_without_weight_it_says_nothing(backbone: Backbone) -> None:
    phase = Phase("p", 1, lr={"*": 0.02})
    (artifact,) = fit(make_recipe([Probe(), Kurtosis(weight=0.0)], phase), make_subject(), backbone)
    assert "kurtosis" not in artifact.losses
