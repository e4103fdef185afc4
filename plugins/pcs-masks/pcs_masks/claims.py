"""A claim for checks: where the subject stands in its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pcs_core import installed
from pcs_core.data import MaskQuery
from pcs_core.data.check import CheckRow
from pcs_masks.given import cover
from pcs_masks.one_shot import appearance, segment


class Services:
    """What a technique asks of a run while it says where the subject is."""

    def feature_model(self, id: str) -> Any:
        """Return a frozen model."""
        return installed().get("feature_models", id)()

    def log(self, message: str) -> None:
        """Tell nobody."""


def masks_from_one(seen: Any, *, use: str, model: str) -> Iterator[CheckRow]:
    """Of pictures of which one alone has a mask, ``use`` gives the others what PerSAM makes of ``model``.

    ``seen`` is what a check looks at: `pcs_checks.observe.Observation`.
    """
    subject, size = seen.subject(1), seen.backbone.card.size
    name = subject.concept.name
    first, other = subject.masks[name]
    assert first is not None
    assert other is not None  # the random subject has one beside each picture
    uses: list[Any] = [u.technique for u in seen.recipe.uses if u.name == use]
    yield CheckRow.compare(f"uses called {use}", len(uses), "==", 1)
    if not uses:
        return
    bare = replace(subject, masks={name: (first, None)})
    query = MaskQuery(moment="subject", subject=bare, size=size)
    said = uses[0].mask(Services(), query).by_name[name]
    segmenter = Services().feature_model(model)
    look = appearance(segmenter, subject.images[0], first)
    expected = cover(segment(segmenter, subject.images[1], look), size)
    away = float((said[1] - expected).abs().max())
    yield CheckRow.compare("largest difference of the second mask from PerSAM's", away, "<=", 1e-6)
    kept = float((said[0] - cover(first, size)).abs().max())
    yield CheckRow.compare("largest change of the mask that was laid there", kept, "==", 0.0)
