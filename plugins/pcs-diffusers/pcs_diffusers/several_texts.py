"""Families whose prompts go through several text encoders: CLIP ones, and a T5 or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from pcs_diffusers.family import DiffusersBackbone
from pcs_diffusers.text_encoders import (
    JoinedTable,
    TextEncoders,
    clip_states,
    is_t5,
    vocabulary_misfits,
)
from pcs_diffusers.tokenizers import ClipTokenizer, T5Tokenizer
from pcs_diffusers.windows import as_rows, of_first, side_by_side

if TYPE_CHECKING:
    from torch import Tensor

T5_LENGTH = 256
"""Tokens T5 reads, as SD 3's pipeline in diffusers."""


class SeveralTextEncoders(DiffusersBackbone):
    """A network whose prompts go through several encoders of its folder.

    ``t5_length``: tokens that T5 reads; a family may put as many zeros where its T5 is left out.
    """

    def __init__(self, *, t5_length: int = T5_LENGTH, **parts: Any) -> None:
        self.t5_length = t5_length
        super().__init__(**parts)

    def read_text(self, parts: Mapping[str, Any]) -> tuple[TextEncoders, ClipTokenizer]:
        """Return the encoders as one module, and the tokenizer of all of them."""
        names = [n for n in self.layout.parts if n.startswith("text_encoder")]
        encoders = TextEncoders({n: parts[n] for n in names if parts.get(n) is not None})
        tokenizers, beside = [], []
        for name, encoder in encoders.named_children():
            tokenizer = parts[name.replace("text_encoder", "tokenizer")]
            if is_t5(encoder):
                beside.append(T5Tokenizer(tokenizer, self.t5_length))
            else:
                tokenizers.append(ClipTokenizer(tokenizer, windows=self.reads_windows))
        tokenizers[0].beside = tuple(beside)
        self._table = JoinedTable(encoders, tokenizers)
        return encoders, tokenizers[0]

    @property
    def embedding(self) -> JoinedTable:
        """The token tables of all encoders, side by side."""
        return self._table

    def text_misfits(self) -> Iterator[str]:
        """Yield what says that encoders and tokenizers are not of one model."""
        return vocabulary_misfits(self.text_encoder, [t for _, t in self._table.reads])

    def clip_texts(self, ids: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return what the CLIP encoders say about ids [b l], and each encoder's rows.

        Their last but one hidden states side by side [b l d1+d2], their pooled states [b d] each, and
        rows [b l d] of each encoder's table, the T5's last. Of several windows the first one's pooled.
        """
        clip_ids = as_rows(ids, self._table.length) if self.reads_windows else ids
        rows = self._table.split(self._table(clip_ids))
        clip_ids = clip_ids[:, : self._table.length]
        states = [
            clip_states(c, clip_ids, r) for c, r in zip(self.text_encoder.clips, rows, strict=False)
        ]
        text = torch.cat([s for s, _ in states], dim=-1)
        if not self.reads_windows:
            return text, tuple(p for _, p in states), rows
        pooled = tuple(of_first(p, text, ids) for _, p in states)
        return side_by_side(text, ids), pooled, rows
