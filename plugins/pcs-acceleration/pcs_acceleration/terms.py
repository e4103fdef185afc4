"""Which guidance terms are classifier-free: the ones that a technique here may leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcs_core.data import GuidanceTerm


def classifier_free(term: GuidanceTerm) -> bool:
    """Return whether ``term`` is positive minus negative of one network (arXiv:2207.12598)."""
    plus, minus = term.plus, term.minus
    return (
        (plus.prompt, minus.prompt) == ("positive", "negative")
        and plus.model == minus.model == "self"
        and plus.edits == minus.edits
    )


def without_negative(terms: Sequence[GuidanceTerm]) -> tuple[GuidanceTerm, ...]:
    """Return ``terms`` without the classifier-free ones: what a recipe adds of its own stays."""
    return tuple(term for term in terms if not classifier_free(term))
