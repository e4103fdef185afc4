"""One reference whose self-attention all pictures read (StyleAligned, arXiv:2312.02133, section 3).

Q and K of a picture take mean and spread of the reference's (AdaIN), then attention runs over the
picture's and the reference's keys. One-way: the reference never reads the pictures. LayerNorm works per
token, so of the shared norms only GroupNorm changes anything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pcs_attention.reference_rows import ROLE, Aligned, Appended, SharedNorm, Shifted
from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion, Row, Words

if TYPE_CHECKING:
    from pcs_core.data import AttnEdit, Features, Run


class SharedAttention(Technique):
    """Draw a reference beside the pictures and let their self-attention read it. Trains nothing.

    The reference is an inverted picture where a technique of the recipe gives its trajectory, else one
    more picture, drawn from a noise of its own.
    """

    id = "attention.shared"
    takes_clips = False
    catalogue = ("reference-self-attention",)
    neutral = {"share": []}

    share: tuple[Literal["attention", "norm"], ...] = ("attention", "norm")
    """What is shared: keys and values of self-attention, statistics of the group norms."""
    align: bool = True
    """Whether queries and keys take the reference's statistics (AdaIN)."""
    replace: bool = False
    """Whether the reference's keys and values stand in place of a picture's own, not behind them."""
    shift: float | None = None
    """Added to the logits of the reference's keys. None: 0, and log 2 for an inverted picture."""
    sites: str = "self"
    """Which attention sites read the reference."""
    norms: str = "*"
    """Globs of the norm layers that share."""
    prompt: str = "{prompt}"
    """What a drawn reference shows; ``{prompt}`` is the prompt of the first picture."""
    picture_prompt: str = "a picture of a {noun}"
    """What an inverted reference shows: the prompt it was inverted with."""
    trajectory: str = "ddim.trajectory"
    """The feature that holds an inverted reference."""
    start: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Part of the sampling at which the sharing begins, 0 = pure noise."""
    stop: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Part of the sampling at which it ends."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(writes=(f"row:{ROLE}",), may_read=(f"feature:{self.trajectory}",))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Add the reference's row and bind the sharing edits."""
        if not self.share:
            return None
        inverted = self.trajectory in features.tensors
        options: dict[str, Any] = {"start": self.start, "stop": self.stop, "mode": "sample"}
        attention: list[AttnEdit] = []
        shift = (math.log(2.0) if inverted else 0.0) if self.shift is None else self.shift
        for site in run.sites(self.sites) if "attention" in self.share else ():
            attention += [Aligned(site, **options)] if self.align else []
            attention.append(Appended(site, self.replace, **options))
            attention += [Shifted(site, shift, **options)] if shift and not self.replace else []
        norms = run.sites(self.norms, "norm") if "norm" in self.share else ()
        return Fusion(
            edits=(*attention, *(SharedNorm(site, **options) for site in norms)),
            rows=(self._row(features, inverted),),
        )

    def _row(self, features: Features, inverted: bool) -> Row:
        if not inverted:
            return Row(ROLE, prompt=self.prompt)
        concepts = [c for group in features.concepts for c in group]
        prompt = self.picture_prompt.replace("{noun}", concepts[0].noun if concepts else "")
        return Row(ROLE, latents="trajectory", key=self.trajectory, prompt=prompt)
