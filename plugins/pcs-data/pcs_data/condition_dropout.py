"""Conditions dropped at random in pre-training, so that guidance stays valid (arXiv:2308.06721, 3.2).

``subjects`` is FastComposer's ``--object_appear_prob`` (``fastcomposer/data.py``), as the share that goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion

if TYPE_CHECKING:
    from pcs_core.data import Features, Run

Share = Annotated[float, Field(ge=0.0, le=0.5)]


class ConditionDropout(Technique):
    """Of a pre-training's rows, some lose their text, some what their references say, some both."""

    id = "data.condition_dropout"
    catalogue = ("condition-dropout",)
    neutral = {"text": 0.0, "streams": 0.0, "both": 0.0, "subjects": 0.0}
    later = ("subjects",)

    text: Share = 0.05
    """Share of rows with an empty caption."""
    streams: Share = 0.05
    """Share of rows whose features are zeros."""
    both: Share = 0.05
    """Share of rows that lose both."""
    subjects: Share = 0.0
    """Share of subjects, each by itself, whose words are plain text and whose references are not read."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Say how often each is dropped."""
        shares = {"text": self.text, "streams": self.streams, "both": self.both}
        return Fusion(dropout={**shares, "subjects": self.subjects})
