"""The rulers and the gate: what they measure is measured, and misuse is refused by name."""

from itertools import product

import pytest

from pcs_mini.world.reserved import RESERVED_SHARE, is_reserved


def test_a_twentieth_of_the_combinations_is_reserved_over_every_axis():
    concepts, styles, places = (
        [f"c{i}" for i in range(60)],
        ["glossy", "flat", "solid"],
        list("abcdefghij"),
    )
    held = [c for c in product(concepts, styles, places) if is_reserved(*c)]
    share = len(held) / (60 * 3 * 10)
    assert share == pytest.approx(RESERVED_SHARE, abs=0.02)
    assert {style for _, style, _ in held} == set(styles)
    assert {place for _, _, place in held} == set(places)


def test_the_reserved_combinations_stay_the_same():
    assert is_reserved("dog", "flat", "beach")
    assert is_reserved("fish", "glossy", "beach")
    assert not is_reserved("dog", "glossy", "beach")
