"""Several text encoders that read one prompt, and their token tables as one.

SDXL has two CLIP encoders (arXiv:2307.01952, section 2.1), SD 3 two and a T5 (arXiv:2403.03206, section
4). The CLIP ones share their vocabulary; T5's ids stand behind theirs. A learned word is one row as wide
as all tables together, and each encoder reads its own columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_diffusers.tokenizers import ClipTokenizer, T5Tokenizer


class TextEncoders(nn.Module):
    """The encoders under the names of their folders; ``t5`` is the one of that kind, or None."""

    def __init__(self, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for folder, encoder in encoders.items():
            self.add_module(folder, encoder)

    @property
    def clips(self) -> tuple[Any, ...]:
        """The CLIP encoders in order."""
        return tuple(e for e in self.children() if not is_t5(e))

    @property
    def t5(self) -> Any:
        """The T5 encoder, or None."""
        return next((e for e in self.children() if is_t5(e)), None)


def is_t5(encoder: Any) -> bool:
    """Return whether an encoder is a T5."""
    return bool(encoder.config.model_type == "t5")


class JoinedTable(nn.Module):
    """The token tables side by side: rows [b l d1+d2(+d3)] of ids [b l].

    Columns of a table that does not read a position are zero there. It refers to the tables and owns
    nothing.
    """

    def __init__(self, encoders: TextEncoders, tokenizers: Sequence[ClipTokenizer]) -> None:
        super().__init__()
        self.reads = tuple((c.get_input_embeddings(), t) for c, t in _paired(encoders, tokenizers))
        self.t5 = (encoders.t5.get_input_embeddings(),) if encoders.t5 is not None else ()
        self.length = tokenizers[0].length
        beside = getattr(tokenizers[0], "beside", ())
        self.t5_tokenizer: T5Tokenizer | None = beside[0] if beside else None
        self.clip_widths = tuple(int(table.weight.shape[1]) for table, _ in self.reads)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows."""
        clip_ids = ids[:, : self.length]
        rows = torch.cat([table(self.own_ids(clip_ids, t)) for table, t in self.reads], dim=-1)
        if not self.t5:
            return rows
        (table,) = self.t5
        more = table(ids[:, self.length :])
        rows, more = F.pad(rows, (0, more.shape[-1])), F.pad(more, (rows.shape[-1], 0))
        return torch.cat([rows, more], dim=1)

    def own_ids(self, ids: Tensor, tokenizer: ClipTokenizer) -> Tensor:
        """Return the first tokenizer's ids [b l] as another one gives them: it may pad with a word.

        Where that word ("!" in SDXL and SD 3) stands in a prompt, it is the padding's entry there too.
        """
        if tokenizer.pad == tokenizer.end:
            return ids
        word = self.reads[0][1].encode(tokenizer.inner.pad_token)
        if len(word) == 1:
            ids = torch.where(ids == word[0], tokenizer.pad, ids)
        return padded(ids, tokenizer)

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return each encoder's own rows, CLIP ones first."""
        if not self.t5:
            return rows.split(self.clip_widths, dim=-1)
        *clips, _ = rows[:, : self.length].split(
            (*self.clip_widths, rows.shape[-1] - sum(self.clip_widths)), dim=-1
        )
        return (*clips, rows[:, self.length :, sum(self.clip_widths) :])

    @property
    def weight(self) -> Tensor:
        """The tables' weights [v d1+d2], of one vocabulary.

        Raises
        ------
        CapabilityError
            T5 has another vocabulary: there is no such matrix.
        """
        if self.t5:
            raise CapabilityError("the text encoders have two vocabularies: ask for words")
        return torch.cat([table.weight for table, _ in self.reads], dim=1)

    @torch.no_grad()
    def words(self, text: str) -> Tensor:
        """Return the rows [n d] of ``text``; with T5, whose pieces are others, their means [1 d]."""
        first = self.reads[0][1]
        ids = torch.tensor(first.encode(text), device=self.reads[0][0].weight.device)
        rows = torch.cat([table.weight[ids] for table, _ in self.reads], dim=1)
        if not self.t5:
            return rows
        assert self.t5_tokenizer is not None
        (table,) = self.t5
        more = table.weight[torch.tensor(self.t5_tokenizer.encode(text), device=ids.device)]
        return torch.cat([rows.mean(0, keepdim=True), more.mean(0, keepdim=True)], dim=1)


def _paired(
    encoders: TextEncoders, tokenizers: Sequence[ClipTokenizer]
) -> tuple[tuple[Any, ClipTokenizer], ...]:
    return tuple(zip(encoders.clips, tokenizers, strict=True))


def padded(ids: Tensor, tokenizer: ClipTokenizer) -> Tensor:
    """Return ids [b l] with the tokenizer's own padding behind the first end token."""
    if tokenizer.pad == tokenizer.end:
        return ids
    ended = (ids == tokenizer.end).cumsum(dim=1)
    behind = (ended > 1) | ((ended == 1) & (ids != tokenizer.end))
    return ids.masked_fill(behind, tokenizer.pad)


def clip_states(clip: Any, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last but one hidden state [b l d] and the pooled state [b d] of a CLIP encoder.

    ``rows`` [b l d] are what its token table says. Pooled is projected where the encoder projects.
    """
    with _fed(clip.get_input_embeddings(), rows):
        output = clip(input_ids=ids, output_hidden_states=True)
    projected = getattr(output, "text_embeds", None)
    return output.hidden_states[-2], output.pooler_output if projected is None else projected


@contextmanager
def _fed(table: nn.Module, rows: Tensor) -> Iterator[None]:
    """Let a token table say ``rows``, for the duration: CLIP takes no embeddings for input."""
    before = vars(table).get("forward")
    object.__setattr__(table, "forward", lambda _: rows)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(table, "forward")
        else:
            object.__setattr__(table, "forward", before)


def vocabulary_misfits(
    encoders: TextEncoders, tokenizers: Sequence[ClipTokenizer]
) -> Iterator[str]:
    """Yield what says that CLIP encoders do not read the same ids."""
    first = tokenizers[0]
    for number, (clip, tokenizer) in enumerate(_paired(encoders, tokenizers), start=1):
        suffix = "" if number == 1 else f"_{number}"
        words, rows = len(tokenizer.inner), clip.config.vocab_size
        if words > rows:
            yield f"tokenizer{suffix} has {words} entries, text_encoder{suffix} {rows} rows"
        if tokenizer.inner.get_vocab() != first.inner.get_vocab() or tokenizer.end != first.end:
            yield f"tokenizer and tokenizer{suffix} have other vocabularies"
        if tokenizer.length != first.length:
            yield f"tokenizer reads {first.length} tokens, tokenizer{suffix} {tokenizer.length}"
