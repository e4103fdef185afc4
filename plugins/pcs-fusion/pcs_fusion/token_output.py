"""Features written into the text at the subject's words (FastComposer, arXiv:2305.10431, 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

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
    """The text's states at the words of each concept change with its feature; all others stay as they are."""

    def __init__(self, key: str, stream: str, scale: str, start: float, last: bool) -> None:
        super().__init__([f"<{key}.feature>"], count=1, hosts=["a"], start=start)
        self.source, self.scale, self.last = stream, scale, last

    def change(self, text: Tensor, feature: Tensor) -> Tensor:
        """Return what fusing feature [b l f] adds to text [b l d], at every position."""
        raise NotImplementedError

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
            known = features[:, slot].abs().sum(-1, keepdim=True) > 0
            here = positions(at, text.shape[1], last=self.last) & known
            feature = features[:, slot : slot + 1].expand(-1, text.shape[1], -1).to(text.dtype)
            change = self.change(text, feature)
            if strength is not None:
                change = change * strength.view(-1, 1, 1)
            text = torch.where(here.unsqueeze(-1), text + change, text)
        return text


class SingleFusion(FusedWords):
    """``text + MLP([text; feature])``, its MLP zero at first: before training it is the text."""

    def __init__(
        self, key: str, stream: str, scale: str, start: float, last: bool, *, widths: Widths
    ) -> None:
        super().__init__(key, stream, scale, start, last)
        self.before = nn.LayerNorm(widths.text + widths.feature)
        first = nn.Linear(widths.text + widths.feature, widths.hidden)
        final = nn.Linear(widths.hidden, widths.text)
        nn.init.zeros_(final.weight)
        nn.init.zeros_(final.bias)
        self.mlp = nn.Sequential(first, nn.GELU(), final)

    def change(self, text: Tensor, feature: Tensor) -> Tensor:
        """Return the MLP of both."""
        added: Tensor = self.mlp(self.before(torch.cat([text, feature], dim=-1)))
        return added


class PostFusion(FusedWords):
    """The released fusion: ``y = text + MLP1([text; feature])``, then ``LayerNorm(y + MLP2(y))``.

    ``FastComposerPostfuseModule`` in ``fastcomposer/model.py``; all its hidden widths are the text's.
    """

    def __init__(
        self, key: str, stream: str, scale: str, start: float, last: bool, *, widths: Widths
    ) -> None:
        super().__init__(key, stream, scale, start, last)
        self.read = mlp(widths.text + widths.feature, widths.hidden, widths.text)
        self.refine = mlp(widths.text, widths.hidden, widths.text)
        self.after = nn.LayerNorm(widths.text)

    def change(self, text: Tensor, feature: Tensor) -> Tensor:
        """Return the difference of what is fused to the text."""
        joined = text + self.read(torch.cat([text, feature], dim=-1))
        fused: Tensor = self.after(joined + self.refine(joined))
        return fused - text


FORMS = {"postfuse": PostFusion, "single": SingleFusion}


@dataclass(frozen=True, slots=True)
class Widths:
    """Channels of the text, of a feature, and between the two maps of an MLP."""

    text: int
    feature: int
    hidden: int


def mlp(inward: int, hidden: int, outward: int) -> nn.Sequential:
    """Return LayerNorm, linear, GELU, linear."""
    return nn.Sequential(
        nn.LayerNorm(inward), nn.Linear(inward, hidden), nn.GELU(), nn.Linear(hidden, outward)
    )


def positions(span: Tensor, length: int, *, last: bool = False) -> Tensor:
    """Return where [b length] the positions of ``span`` [b n] are (-1: nowhere).

    ``last``: of words that stand side by side the last one alone, as at the end of a noun phrase.
    """
    counts = span.new_zeros(span.shape[0], length + 1)
    here = counts.scatter_add(1, span.clamp_min(0), (span >= 0).to(counts)) > 0
    return (here[:, :-1] & ~here[:, 1:]) if last else here[:, :-1]


class TokenOutput(Technique):
    """Fuse each concept's feature into the text encoder's output where the concept stands."""

    id = "fusion.token_output"
    catalogue = ("placeholder-fusion", "delayed-conditioning")
    neutral = {"strength": 0.0}
    absent = {"form": "single"}
    later = ("at",)
    starts_away = (
        "the released fusion ends in a LayerNorm, which changes the words before it is trained"
    )
    tiny = {"hidden": 8}
    tiny_beside = {"tokens.rare": {"identifier": ""}, "encoders.image": {}}
    stacks_subjects = False

    key: str = "image"
    """The feature it reads, [slots d], and the name of its stream."""
    form: Literal["postfuse", "single"] = "postfuse"
    """What fuses: the released code's two MLPs and a LayerNorm, or a single MLP whose sum is left as it is,
    so that before training it changes nothing."""
    hidden: Annotated[int, Field(ge=1)] | None = None
    """Width of the fusing MLPs; None is the text's, as released."""
    at: Literal["all", "last"] = "all"
    """Where a concept's words are several tokens: all of them are fused, or the last one (as released)."""
    start: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Part of the sampling that reads plain text first (delayed subject conditioning)."""
    strength: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """Factor of the change; sampling may set another under ``"<key>.words"``."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(
            reads=(f"feature:{self.key}", "place:concept.*"),
            may_read=(f"feature:{self.key}.states", f"stream:{self.key}.trained"),
            writes=(f"stream:{self.key}.feature", f"strength:{self.key}.words"),
        )

    def implements(self) -> tuple[str, ...]:
        """Return what the settings make of it: plain text comes first where ``start`` is above 0."""
        return self.catalogue if self.start > 0 else ("placeholder-fusion",)

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Make the network that fuses, and hand it the feature, or what a trained encoder makes of it."""
        feature = features.get(self.key, self.id).shape[-1]
        width, scale = run.text_width, f"{self.key}.words"
        trained = f"{self.key}.states" in features.tensors
        stream = f"{self.key}.trained" if trained else f"{self.key}.feature"
        widths = Widths(width, feature, self.hidden or width)
        with run.seeded(f"{self.id}/{self.key}"):
            edit = FORMS[self.form](
                self.key, stream, scale, self.start, self.at == "last", widths=widths
            )
        passed = () if trained else (Passed(stream, (self.key,)),)
        return Fusion(edits=(edit, *passed), strengths={scale: self.strength})
