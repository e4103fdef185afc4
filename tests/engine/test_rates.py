"""Learning rates over a phase: rise, hold, fall."""

from __future__ import annotations

import math

import pytest
import torch

from pcs_core.data import Phase
from pcs_engine.optimizers import make_optimizer
from pcs_engine.rates import set_rates


def rates(**settings: object) -> list[float]:
    phase = Phase("all", 10, lr={"a": 2.0, "*": 1.0}, **settings)  # type: ignore[arg-type]
    params = {name: torch.nn.Parameter(torch.zeros(1)) for name in ("a", "b")}
    optimizer = make_optimizer(phase, params)
    seconds = []
    for index in range(phase.steps):
        set_rates(optimizer, phase, index)
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == pytest.approx(2 * second)
        seconds.append(second)
    return seconds


def test_without_settings_they_are_constant() -> None:
    assert rates() == [1.0] * 10


def test_they_rise_hold_and_fall_to_nearly_nothing() -> None:
    actual = rates(warmup=2, decay=0.4)
    assert actual == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_a_short_phase_may_rise_and_fall_at_once() -> None:
    actual = rates(warmup=20, decay=1.0)
    assert max(actual) < 0.35
    assert actual[-1] < actual[5]


def test_a_linear_fall_takes_all_that_follows_the_rise() -> None:
    actual = rates(schedule="linear", warmup=2)
    assert actual == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_a_cosine_fall() -> None:
    actual = rates(schedule="cosine", warmup=2)
    cosine = [(1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)]
    assert actual == pytest.approx([0.5, 1, *cosine])


def test_the_share_that_falls_and_the_floor() -> None:
    actual = rates(schedule="cosine", decay=0.4, floor=0.1)
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)]
    assert actual == pytest.approx([1] * 6 + cosine)
    assert rates(decay=0.2, floor=0.5) == pytest.approx([1] * 9 + [0.75])


def test_diffusers_counts_the_same_fall() -> None:
    from diffusers.optimization import get_scheduler

    for name in ("linear", "cosine"):
        (param,) = [torch.nn.Parameter(torch.zeros(1))]
        optimizer = torch.optim.SGD([param], lr=1.0)
        schedule = get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=10)
        theirs = []
        for _ in range(10):
            theirs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert rates(schedule=name, warmup=2)[2:] == pytest.approx(theirs[2:])
