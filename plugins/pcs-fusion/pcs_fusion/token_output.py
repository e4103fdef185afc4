"""Features written into the text at the subject's words (FastComposer, arXiv:2305.10431, 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion, StreamEdit, TokenEdit, Words

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Features, Run


class Passed(StreamEdit):
    """Hand a feature on as it is: [b slots d]."""

    def stream(self, *features: Tensor) -> Tensor:
        """Return the feature."""
        return features[0]


class FusedWords(TokenEdit):
    """``LN(MLP([text; feature]) + text)`` at the words of each concept, its residual zero at first."""

    def __init__(
        self, stream: str, width: int, feature: int, hidden: int, scale: str, start: float
    ) -> None:
        super().__init__([f"<{stream}>"], count=1, hosts=["a"], start=start)
        self.source, self.scale = stream, scale
        self.before = nn.LayerNorm(width + feature)
        first, last = nn.Linear(width + feature, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(first, nn.GELU(), last)

    def output(self, text: Tensor, span: Tensor, cond: Conditioning) -> Tensor:
        """Return the text [b l d], changed at the concepts' positions only."""
        features = cond.streams.get(self.source)
        if features is None:
            return text
        strength = cond.extra.get(self.scale)
        for slot in range(features.shape[1]):
            at = cond.spans.get(f"concept.{slot}")
            if at is None:
                continue
            here = torch.zeros(text.shape[:2], device=text.device, dtype=torch.bool)
            here = here.scatter(1, at.clamp_min(0), at >= 0)
            known = features[:, slot].abs().sum(-1, keepdim=True) > 0
            here = here & known
            own = features[:, slot : slot + 1].expand(-1, text.shape[1], -1).to(text.dtype)
            change = self.mlp(self.before(torch.cat([text, own], dim=-1)))
            if strength is not None:
                change = change * strength.view(-1, 1, 1)
            text = torch.where(here.unsqueeze(-1), text + change, text)
        return text


class TokenOutput(Technique):
    """Fuse each concept's feature into the text encoder's output where the concept stands.

    The released code normalises the sum by a LayerNorm of its own; here the sum is left as it is, so
    that the untrained edit changes nothing.
    """

    id = "fusion.token_output"
    catalogue = ("placeholder-fusion", "delayed-conditioning")
    neutral = {"strength": 0.0}
    tiny = {"hidden": 8}
    tiny_beside = {"tokens.rare": {"identifier": ""}, "encoders.image": {}}
    stacks_subjects = False

    key: str = "image"
    """The feature it reads, [slots d], and the name of its stream."""
    hidden: Annotated[int, Field(ge=1)] = 1024
    """Width of the fusion network."""
    start: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Part of the sampling that reads plain text first (delayed subject conditioning)."""
    strength: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """Factor of the change; sampling may set another under ``"<key>.words"``."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(
            reads=(f"feature:{self.key}", "place:concept.*"),
            writes=(f"stream:{self.key}.feature", f"strength:{self.key}.words"),
        )

    def implements(self) -> tuple[str, ...]:
        """Return what the settings make of it: plain text comes first where ``start`` is above 0."""
        return self.catalogue if self.start > 0 else ("placeholder-fusion",)

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Make the network that fuses, and hand it the feature."""
        feature = features.get(self.key, self.id).shape[-1]
        width = run.text_width
        scale = f"{self.key}.words"
        with run.seeded(f"{self.id}/{self.key}"):
            edit = FusedWords(f"{self.key}.feature", width, feature, self.hidden, scale, self.start)
        return Fusion(
            edits=(edit, Passed(f"{self.key}.feature", (self.key,))),
            strengths={scale: self.strength},
        )
