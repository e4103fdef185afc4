"""The contract over every technique that is installed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pcs_core.catalogue import catalogue
from pcs_testing import CHECKS, Case, check_pair


def case(id: str) -> Case:
    return Case(catalogue().get("techniques", id))


@pytest.mark.rotated
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("id", catalogue().ids("techniques"))
def test_contract(id: str, check: Callable[[Case], None]) -> None:
    check(case(id))


@pytest.mark.rotated(6)
@pytest.mark.parametrize("id", catalogue().ids("techniques"))
def test_pairs(id: str) -> None:
    """Every technique beside every one that comes after it in the alphabet, where both can run."""
    first = case(id)
    refused = []
    for other in catalogue().ids("techniques"):
        second = case(other)
        if other > id and second.backbone == first.backbone and not check_pair(first, second):
            refused.append(other)
    # weights and words are exclusive; most of what there is goes together
    assert len(refused) <= len(catalogue().ids("techniques")) // 2, f"refused beside {refused}"
