"""Conditions dropped at random in pre-training, so that guidance stays valid (arXiv:2308.06721, 3.2)."""

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
    neutral = {"text": 0.0, "streams": 0.0, "both": 0.0}

    text: Share = 0.05
    """Share of rows with an empty caption."""
    streams: Share = 0.05
    """Share of rows whose features are zeros."""
    both: Share = 0.05
    """Share of rows that lose both."""

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Say how often each is dropped."""
        return Fusion(dropout={"text": self.text, "streams": self.streams, "both": self.both})
