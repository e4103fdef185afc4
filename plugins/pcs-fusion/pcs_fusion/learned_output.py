"""Learned rows in what the text encoder says: in its last places, or added at the subject's words.

"tail" is HiPer's embedding (arXiv:2303.08767; the authors' ``train.py``): the last rows of a prompt's encoding,
which stand behind its end and say little, are replaced by learned ones, and the words stay free for editing.
"residual" adds one learned row where the subject stands, as the residual of Cones 2 (arXiv:2305.19327).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from pcs_core import Technique, hookimpl
from pcs_core.backbone import Attachment, gather, tokenise
from pcs_core.data import Features, Fusion, TokenEdit, Words
from pcs_fusion.token_output import positions

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, Run, Subject

START = "learned_output.start"
SCALE = "learned_output.scale"


class LearnedOutput(TokenEdit):
    """Rows [S n d] that a prompt's encoding [b l d] gets where it names the subject; other prompts stay."""

    def __init__(self, start: Tensor, tokens: list[str], hosts: list[str]) -> None:
        super().__init__(tokens, count=1, hosts=hosts, stacked=True)
        self.rows = nn.Parameter(start.clone())

    def put(self, text: Tensor, rows: Tensor, here: Tensor) -> Tensor:
        """Return text [b l d] with rows [b n d]; ``here`` [b l] is where the subject's words stand."""
        raise NotImplementedError

    def output(self, text: Tensor, span: Tensor, cond: Conditioning) -> Tensor:
        """Return the text with the rows, at sampling times the strength."""
        at = cond.spans.get("concept.0")
        if at is None:
            return text
        rows = gather(self.rows, cond.subject).to(text.dtype)
        scale = None if self.training else cond.extra.get(SCALE)
        if scale is not None:
            rows = rows * scale.view(-1, 1, 1).to(rows)
        return self.put(text, rows.expand(len(text), -1, -1), positions(at, text.shape[1]))


class Tail(LearnedOutput):
    """The rows stand in the last places of the encoding."""

    def put(self, text: Tensor, rows: Tensor, here: Tensor) -> Tensor:
        """Return text [b l d] that ends with the rows [b n d], where any word of the subject stands."""
        changed = torch.cat([text[:, : -rows.shape[1]], rows], dim=1)
        return torch.where(here.any(1).view(-1, 1, 1), changed, text)


class Residual(LearnedOutput):
    """One row is added to the encoding of each of the subject's words."""

    def put(self, text: Tensor, rows: Tensor, here: Tensor) -> Tensor:
        """Return text [b l d] plus the row [b 1 d] at the subject's words."""
        return text + rows * here.unsqueeze(-1).to(rows)


class LearnedTextOutput(Technique):
    """Learn rows of the text encoder's output for prompts that name the subject.

    The encoder itself is asked no other question: words in front of a tail are encoded as ever. Of a prompt
    that fills its window to the end, "tail" replaces the last words.
    """

    id = "fusion.learned_output"
    rowwise = True
    catalogue = ("text-feature-embedding",)
    neutral = {"count": 0}
    tiny_beside = {"tokens.rare": {"identifier": ""}}

    form: Literal["tail", "residual"] = "tail"
    """Rows in place of the last ones, or one row added where the subject's words stand."""
    count: Annotated[int, Field(ge=0, le=64)] = 5
    """Rows of a tail; 0: none, and the text stays as it is. A residual is one row."""
    caption: str = "a {noun}"
    """The prompt whose last rows a tail starts from; ``{noun}`` is the subject's."""
    scale: Annotated[float, Field(ge=0.0, le=2.0)] = 0.8
    """Factor of the rows at sampling (the strength ``learned_output.scale``); 1 in a fit. HiPer's is 0.8."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(reads=("place:concept.*",), writes=(f"feature:{START}", f"strength:{SCALE}"))

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Encode the caption by the base, and hand on its last rows [count d]."""
        if moment != "start" or not self.count or self.form == "residual":
            return None
        backbone: Any = run.backbone  # type: ignore[attr-defined]
        prompt = self.caption.replace("{noun}", subject.concept.noun)
        with torch.no_grad(), Attachment(backbone, Fusion()) as net:
            text = net.encode_text(tokenise([prompt], backbone.tokenizer)).text
        return Features(tensors={START: text[0, -self.count :].float().cpu()})

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put the rows into the text. From an artifact they come with its tensors."""
        if not self.count:
            return None
        tail = self.form == "tail"
        blank = torch.zeros(features.subjects, self.count if tail else 1, run.text_width)
        start = features.tensors.get(START, blank) if tail else blank
        first = [concepts[0] for concepts in features.concepts]
        tokens, nouns = [c.token for c in first], [c.noun for c in first]
        edit = (Tail if tail else Residual)(start.float(), tokens, nouns)
        return Fusion(edits=(edit,), strengths={SCALE: self.scale})
