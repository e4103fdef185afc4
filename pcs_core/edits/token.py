"""Edits of what a placeholder means to the text encoder, and their place in its token table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from pcs_core.edits.edit import Edit
from pcs_core.edits.module import stand_in

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.attach import Attachment
    from pcs_core.backbone.context import Context
    from pcs_core.data.conditioning import Conditioning


class TokenEdit(Edit):
    """What a placeholder means to the text encoder.

    ``tokens`` and ``hosts`` have an entry per subject: the placeholder, and the word whose ids stand
    there (never new ids: the output of the embedding table is edited at the span). ``count`` is the
    number of positions a placeholder takes.
    """

    STAGES = ("vocabulary", "layer", "output")
    LISTED, BOUND = 0, 60
    timed: ClassVar[bool] = False
    """True when what it says depends on the noise level: the text is then encoded in every step."""
    untuned: ClassVar[str] = ""
    """Name under which ``Conditioning.extra`` holds [b l d], what the base's text encoder makes of the same
    prompts with :meth:`instead` at the placeholder; "" asks for nothing. Only where the edit acts."""

    readings: int = 1
    """How often the encoder reads a text with the placeholder: with each of the rows [S, readings, count, d]
    of ``vocabulary`` in turn. :meth:`joined` makes one text of them; a fit finds them all as ``READINGS``."""

    def __init__(
        self, tokens: Sequence[str], *, count: int, hosts: Sequence[str], **options: object
    ) -> None:
        super().__init__(tokens[0], **options)  # type: ignore[arg-type]
        self.tokens, self.count, self.hosts = tuple(tokens), count, tuple(hosts)

    @classmethod
    def bind(cls, edits: Sequence[TokenEdit], net: Attachment) -> None:
        """Let the edits' rows stand in the output of the token table."""
        if edits:
            table = net.backbone.embedding
            net.undo(stand_in(table, BoundEmbedding(table, edits, net.context)))

    def placeholders(self) -> Iterable[str]:
        """Return its tokens; edits of the encoder's output chain, on any words."""
        return () if self.stage() == "output" else self.tokens

    def touches_text(self) -> bool:
        """Return True."""
        return True

    def text_reads(self) -> frozenset[str]:
        """Return "level" where it is timed, "streams" where it changes the encoder's output."""
        level = {"level"} if self.timed else set()
        return frozenset(level | ({"streams"} if self.stage() == "output" else set()))

    def key(self, subject: int = 0) -> str:
        """Return the placeholder of ``subject``."""
        return self.tokens[subject]

    def vocabulary(self) -> Tensor:
        """Return the rows [S, count, d] that stand at the token's span."""
        raise NotImplementedError

    def joined(self, said: Tensor, cond: Conditioning) -> Tensor:
        """Return one text [b l d] (one pooled state [b d]) of those of the readings, [b readings ...]."""
        raise NotImplementedError

    def layer(self, time: Tensor | None, layers: int, subject: Tensor | None = None) -> Tensor:
        """Return the rows [S|b, layers, count, d], one set per cross-attention site of the denoiser.

        ``time`` [b] is the noise level of each row in [0, 1], 1 = pure noise; None where there is
        none (closed forms). ``subject`` [b] is each row's subject: a timed edit returns [b ...], and
        picks each row's own. With such an edit the text is encoded once per site.
        """
        raise NotImplementedError

    def instead(self) -> Tensor:
        """Return the rows [S, count, d] that stand at the span where the base reads (``untuned``)."""
        raise NotImplementedError

    def output(self, text: Tensor, span: Tensor, cond: Conditioning) -> Tensor:
        """Return the encoder's output [b l d], changed; ``span`` [b count] holds positions or -1.

        ``cond`` holds the rows' ``subject``, ``time``, ``spans`` and ``streams``; its text is not
        there yet.
        """
        return text


class BoundEmbedding:
    """Stands in for the token table's ``forward`` and puts each edit's rows at its span."""

    def __init__(self, module: nn.Module, edits: Sequence[TokenEdit], context: Context) -> None:
        self.module, self.context = module, context
        self.edits = {str(i): edit for i, edit in enumerate(edits) if edit.stage() != "output"}
        self.all = {str(i): edit for i, edit in enumerate(edits)}

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the rows [n l d] of ``ids``, the edits' rows at their spans.

        Windows of a longer text may be rows of their own: spans are positions in all windows of a prompt.
        """
        table = type(self.module).forward(self.module, ids)
        rows = next((len(span) for span in self.context.spans.values()), len(table))
        if rows == len(table):
            return self._placed(table)
        return self._placed(table.reshape(rows, -1, table.shape[-1])).reshape(table.shape)

    def _placed(self, table: Tensor) -> Tensor:
        """Return ``table`` [b l d], a row for each prompt, with the edits' rows at their spans."""
        if self.context.off:
            return self._instead(table) if self.context.instead else table
        for key, edit in self.edits.items():
            span = self.context.spans.get(key)
            if span is None or not self.context.acts(edit):
                continue
            if edit.stage() == "vocabulary":
                rows = edit.vocabulary()
                if edit.readings > 1:
                    rows = rows[:, self.context.reading % edit.readings]
            else:
                time = None if self.context.cond is None else self.context.cond.time
                rows = edit.layer(time, self.context.layers, self.context.subject)
                rows = rows[:, self.context.layer]
            timed = edit.stage() == "layer" and edit.timed and rows.shape[0] == table.shape[0]
            edit_rows = rows if rows.shape[0] == 1 or timed else rows[self.context.subject]
            edit_rows = edit_rows.repeat(
                1, span.shape[1] // edit_rows.shape[1], 1
            )  # it may stand there twice
            table = place_rows(table, span, edit_rows)
        return table

    def _instead(self, table: Tensor) -> Tensor:
        """Return ``table`` with the rows of the edits that asked for the base's reading."""
        for key, edit in self.all.items():
            span = self.context.spans.get(key)
            if span is not None and edit.untuned == self.context.instead:
                rows = edit.instead()
                edit_rows = rows if rows.shape[0] == 1 else rows[self.context.subject]
                table = place_rows(
                    table, span, edit_rows.repeat(1, span.shape[1] // edit_rows.shape[1], 1)
                )
        return table


def place_rows(table: Tensor, span: Tensor, rows: Tensor) -> Tensor:
    """Return ``table`` [b l d] with ``rows`` [b|1 n d] at positions ``span`` [b n] (-1: nowhere)."""
    hot = F.one_hot(span.clamp_min(0), table.shape[1]).to(table)
    hot = hot * (span >= 0).to(table).unsqueeze(-1)
    kept = table * (1 - hot.sum(1).unsqueeze(-1))
    return kept + torch.einsum("bnl,bnd->bld", hot, rows.to(table).expand(table.shape[0], -1, -1))
