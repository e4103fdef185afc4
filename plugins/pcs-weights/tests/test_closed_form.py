"""The constrained least squares of the closed-form merge."""

from __future__ import annotations

import pytest
import torch

from pcs_core import fit, merge_personalizations
from pcs_core.backbone import Backbone
from pcs_core.data import Phase
from pcs_core.errors import InputError
from pcs_core.testing import make_recipe, make_subject
from pcs_core.testing.probe import Probe
from pcs_weights.merge import solve


def problem(targets: int = 3, width: int = 8, out: int = 5) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    base = torch.randn(out, width, generator=rng)
    features = torch.randn(targets, width, generator=rng)
    values = torch.randn(targets, out, generator=rng)
    return base, features, values, torch.randn(40, width, generator=rng)


def test_the_targets_are_met_and_nothing_nearer_meets_them() -> None:
    base, targets, values, regular = problem()
    delta = solve(base, targets, values, regular, 1e-9)
    torch.testing.assert_close(targets @ (base + delta).T, values, rtol=1e-4, atol=1e-4)
    # any other solution differs by rows orthogonal to the targets, and moves the rest more
    _, _, right = torch.linalg.svd(targets)
    cost = (regular @ delta.T).norm()
    for direction in right[3:]:
        for sign in (-0.1, 0.1):
            other = delta + sign * torch.outer(torch.ones(5), direction)
            torch.testing.assert_close(targets @ (base + other).T, values, rtol=1e-3, atol=1e-3)
            assert (regular @ other.T).norm() > cost


def test_nothing_asked_is_nothing_changed() -> None:
    base, targets, _, regular = problem()
    assert solve(base, targets, targets @ base.T, regular, 1e-9).abs().max() < 1e-5


def test_repeated_targets_do_not_blow_up() -> None:
    base, targets, values, regular = problem()
    doubled = solve(base, targets.repeat(2, 1), values.repeat(2, 1), regular, 1e-9)
    torch.testing.assert_close(
        doubled, solve(base, targets, values, regular, 1e-9), rtol=1e-3, atol=1e-3
    )


def test_what_has_no_deltas_does_not_merge(backbone: Backbone) -> None:
    subjects = [make_subject("a", token="<a>"), make_subject("b", token="<b>")]
    persons = fit(make_recipe([Probe()], Phase("p", 1)), subjects, backbone)
    with pytest.raises(InputError, match="no key/value deltas"):
        merge_personalizations(persons, backbone)
