"""`extract` is asked at named moments: a technique leaves alone those that it does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcs_core.data import Masks
from pcs_testing.fixtures import extracted, make_recipe

if TYPE_CHECKING:
    from pcs_testing.case import Case

UNKNOWN = ("before", "within")
"""Moments of no version so far: one before all that there are in the alphabet, one behind them."""


def other_moments_are_left_alone(case: Case) -> None:
    """At a moment that it does not know, `extract` says nothing: later versions may ask at more of them."""
    technique, subject = case.make(), case.subject()
    recipe = make_recipe([*case.others(), technique])
    run, _, _ = extracted(recipe, [subject], case.open())
    for moment in UNKNOWN:
        said = run.call_at(
            "extract",
            lambda asked, implementation: (
                asked is technique and "moment" in implementation.argnames
            ),
            subject=subject,
            masks=Masks(),
            moment=moment,
        )
        assert not said, (
            f"extract answers at {moment!r}, a moment of no version: compare with the moments that are meant, "
            'as in `if moment != "start": return None`'
        )
