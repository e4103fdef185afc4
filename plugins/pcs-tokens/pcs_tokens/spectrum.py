"""A word for each stretch of the noise level, all said by one small network (ProSpect, arXiv:2305.16225).

The released network (``ldm/modules/embedding_manager.py``) is a transformer block on one token, the class
word's embedding e: x = e + A1(norm(e)), x = x + A2(e), rows = F(norm(x)). Attention to a single token is its
value and output maps, whatever queries and keys are: those, which nothing reads and nothing trains there, are
not built here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.backbone import batched_linear
from pcs_core.data import Features, Fusion, TokenEdit
from pcs_core.errors import CapabilityError
from pcs_tokens.mapper_network import StackedLinear, StackedNorm, scatter

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.data import Run, Subject

WIDER = 4
"""Hidden channels of the feed-forward part by the width of a word."""


class SingleTokenAttention(nn.Module):
    """What attention to one token is: its output map after its value map, for each subject."""

    def __init__(self, rngs: Sequence[Generator], width: int, inner: int) -> None:
        super().__init__()
        drawn = [(2 * torch.rand(inner, width, generator=r) - 1) * width**-0.5 for r in rngs]
        self.value = nn.Parameter(torch.stack(drawn))
        self.out = StackedLinear(rngs, inner, width)

    def forward(self, x: Tensor, subject: Tensor) -> Tensor:
        """Return [b 1 width] of a token [b 1 width]."""
        said: Tensor = self.out(batched_linear(x, self.value, subject), subject)
        return said


class SpectrumRows(TokenEdit):
    """Rows [b, layers, 1, d] of each row's stretch of the noise level; 0 is nearest to the picture."""

    timed = True
    word: Tensor

    def __init__(
        self,
        word: Tensor,
        rngs: Sequence[Generator],
        *,
        stages: int,
        inner: int,
        dropout: float,
        tokens: list[str],
        nouns: list[str],
    ) -> None:
        super().__init__(tokens, count=1, hosts=nouns, stacked=True)
        subjects, width = word.shape
        self.stages, self.dropout = stages, dropout
        # of the base's table: nothing an artifact needs to hold
        self.register_buffer("word", word, persistent=False)
        self.norm = StackedNorm(subjects, width)
        self.first = SingleTokenAttention(rngs, width, inner)
        self.second = SingleTokenAttention(rngs, width, inner)
        self.last_norm = StackedNorm(subjects, width)
        self.wide = StackedLinear(rngs, width, 2 * WIDER * width)
        self.head = StackedLinear(rngs, WIDER * width, stages * width)

    def layer(self, time: Tensor | None, layers: int, subject: Tensor | None = None) -> Tensor:
        """Return the rows; without a noise level, those of the middle stretch."""
        device = self.head.bias.device
        if subject is None:
            count = 1 if time is None else len(time)
            subject = torch.zeros(count, dtype=torch.long, device=device)
        if time is None:
            time = torch.full((len(subject),), 0.5, device=device)
        spectrum = self.spectrum(time, subject)
        stage = (time * self.stages).long().clamp(0, self.stages - 1)
        row = spectrum[torch.arange(len(stage), device=device), stage]
        return row[:, None, None].expand(-1, layers, -1, -1)

    def spectrum(self, time: Tensor, subject: Tensor) -> Tensor:
        """Return the words of all stretches [b stages d]."""
        word = self.word[subject][:, None]
        x = word + self._drop(self.first(self.norm(word, subject), subject), time, 0)
        x = x + self._drop(self.second(word, subject), time, 1)
        value, gate = self.wide(self.last_norm(x, subject), subject).chunk(2, dim=-1)
        rows: Tensor = self.head(self._drop(value * F.gelu(gate), time, 2), subject)
        return rows.reshape(len(rows), self.stages, -1)

    def _drop(self, x: Tensor, time: Tensor, place: int) -> Tensor:
        """Leave out a share of x [b 1 n] in a fit, by a hash of each row's noise level: going on repeats it."""
        if not self.training or not self.dropout:
            return x
        units = torch.arange(x.shape[-1], device=x.device)
        key = 3.7 * scatter(time.double() * 1000)[:, None] + 0.013 * units + 7.1 * place
        return x * ((scatter(key) >= self.dropout).to(x) / (1 - self.dropout))[:, None]


class SpectrumToken(Technique):
    """Replace the placeholder by a word for each stretch of the noise level, said by one network."""

    id = "tokens.spectrum"
    rowwise = True
    catalogue = ("mapper-token", "timestep-token")
    tiny = {"inner": 8}

    stages: Annotated[int, Field(ge=1, le=1000)] = 10
    """Stretches of the noise level, all alike."""
    inner: Annotated[int, Field(ge=1, le=65536)] = 512
    """Channels of values in the network's attention: 8 heads of 64 as released."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of the network's units that a fit leaves out at random."""
    templates: tuple[str, ...] = ("{token}",)
    """Captions of references that have none; ``{token}`` stands for the subject."""

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Give the references neutral captions."""
        return Features(captions=self.templates) if moment == "start" else None

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Make one network for each concept slot."""
        if not run.sites("cross"):
            raise CapabilityError(f"{self.id}: the denoiser has no cross-attention site")
        edits = []
        for slot in range(max(len(c) for c in features.concepts)):
            concepts = [c[min(slot, len(c) - 1)] for c in features.concepts]
            rngs = [run.init_rng(s, f"{self.id}/{c.name}") for s, c in enumerate(concepts)]
            words = torch.stack([run.embed_words(c.noun).mean(0).cpu() for c in concepts])
            edits.append(
                SpectrumRows(
                    words,
                    rngs,
                    stages=self.stages,
                    inner=self.inner,
                    dropout=self.dropout,
                    tokens=[c.token for c in concepts],
                    nouns=[c.noun for c in concepts],
                )
            )
        return Fusion(edits=tuple(edits))
