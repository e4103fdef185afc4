"""The captions of a fit: tokenised once, and encoded once where nothing in the text trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from pcs_core.backbone import Attachment, TokenisedPrompts, tokenise

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class CaptionTable:
    """All captions of a fit, tokenised once; encoded once too where nothing in the text trains.

    ``text`` [m l d] and ``pooled`` [m d] are None when the text must be encoded in every step.
    """

    captions: list[tuple[int, str]] = field(default_factory=list)
    tokens: TokenisedPrompts | None = None
    text: Tensor | None = None
    pooled: Tensor | None = None

    def add(self, subject: int, caption: str) -> int:
        """Return the row of ``caption`` for ``subject``, added if new."""
        key = (subject, caption)
        if key not in self.captions:
            self.captions.append(key)
        return self.captions.index(key)

    def encode(self, net: Attachment, *, constant: bool) -> None:
        """Tokenise all captions and, if ``constant``, encode them."""
        fusion = net.fusion
        subjects = [s for s, _ in self.captions]
        self.tokens = tokenise(
            [c for _, c in self.captions],
            net.backbone.tokenizer,
            words=fusion.words,
            tokens=fusion.tokens,
            subjects=subjects,
        )
        self.text = self.pooled = None  # an earlier phase may have left what it could keep
        if not constant:
            return
        index = torch.tensor(subjects, device=net.backbone.device)
        with torch.no_grad():
            parts = [
                net.encode_text(self._rows(range(i, min(i + 64, len(subjects)))), index[i : i + 64])
                for i in range(0, len(subjects), 64)
            ]
        self.text = torch.cat([t for t, _ in parts])
        pooled = [p for _, p in parts if p is not None]
        self.pooled = torch.cat(pooled) if pooled else None

    def _rows(self, rows: Sequence[int]) -> TokenisedPrompts:
        assert self.tokens is not None
        index = torch.as_tensor(list(rows))
        spans = {k: v[index] for k, v in self.tokens.spans.items()}
        return TokenisedPrompts(self.tokens.ids[index], spans)

    def read(
        self, net: Attachment, rows: Sequence[int], subject: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return text and pooled of the given rows, from the table or encoded now."""
        if self.text is not None:
            index = torch.as_tensor(list(rows), device=self.text.device)
            return self.text[index], None if self.pooled is None else self.pooled[index]
        return net.encode_text(self._rows(rows), subject)


def text_is_constant(net: Attachment, training: Sequence[str]) -> bool:
    """True when no parameter in ``training`` changes what the text encoder says."""
    fusion = net.fusion
    touching = {e.owner for e in fusion.tokens}
    touching |= {w.owner for w in fusion.weights if w.site.part == "text"}
    touching |= {w.owner for w in fusion.layers if w.site.part == "text"}
    touching |= {s.owner for s in (*fusion.swaps, *fusion.injections) if s.part == "text"}
    # a use that edits both parts counts as touching: its text parameters train with it
    return not any(name.split("/", 1)[0] in touching for name in training)
