"""Learning rates over a phase: rise, hold, fall."""

from __future__ import annotations

import pytest
import torch

from pcs_core.data import Phase
from pcs_core.engine.optimizers import make_optimizer, set_rates


def rates(**settings: float) -> list[float]:
    phase = Phase("all", 10, lr={"a": 2.0, "*": 1.0}, **settings)  # type: ignore[arg-type]
    params = {name: torch.nn.Parameter(torch.zeros(1)) for name in ("a", "b")}
    optimizer = make_optimizer(phase, params)
    found = []
    for index in range(phase.steps):
        set_rates(optimizer, phase, index)
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == pytest.approx(2 * second)
        found.append(second)
    return found


def test_without_settings_they_are_constant() -> None:
    assert rates() == [1.0] * 10


def test_they_rise_hold_and_fall_to_nearly_nothing() -> None:
    found = rates(warmup=2, decay=0.4)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_a_short_phase_may_rise_and_fall_at_once() -> None:
    found = rates(warmup=20, decay=1.0)
    assert max(found) < 0.35
    assert found[-1] < found[5]
