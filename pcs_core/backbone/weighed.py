"""Weights of words: applied to what a text encoder says, where a prompt reader gives them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import torch

from pcs_core.backbone.windows import reads_windows

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.attach import Attachment
    from pcs_core.backbone.tokens import TokenisedPrompts

LOGGER = logging.getLogger("pcs")

ENDS = re.compile(r"[^\\(]:\s*[+-]?\d*\.?\d+\s*\)")
"""How a weight of A1111's syntax ends: ``word:1.3)``."""
UNCLOSED = re.compile(r"(?<!\\)\([^()]*[^()\\\d]:\s*\d*\.?\d+(?![\d.])(?=[^)]*$)")
"""One of which somebody forgot the end: ``(word:1.3``. Behind a digit it is a time or a ratio."""
BEHIND = re.compile(r"\)(?:\d*\.\d+|\++|-{2,})(?![\w.])|\w\w\+{2,}(?![\w+])")
"""What stands behind words of a weight in compel's syntax: ``)1.3``, ``)+``, ``word++``."""
FILE = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>")
"""What other programs read as the name of a file: ``<lora:style:0.8>``."""


def weigh(net: Attachment, prompts: TokenisedPrompts, text: Tensor) -> Tensor:
    """Return the encoder's ``text`` [b l d] of ``prompts``, its words weighed, window by window."""
    reader = net.fusion.reader
    if reader is None or prompts.weights is None:
        return text
    rows, k = len(text), prompts.windows
    weights = prompts.weights.to(text).reshape(rows * k, -1)
    widths = list(getattr(net.backbone, "text_widths", ())) or [text.shape[-1]]
    known: list[Tensor] = []

    def empty(part: int) -> Tensor:
        if not known:
            said = _empty(net, prompts).repeat_interleave(k, dim=0).to(text)
            known.extend(said.split(widths, dim=-1))
        return known[part]

    windows = text.reshape(rows * k, -1, text.shape[-1])
    weighed = [  # what several encoders say side by side, each for itself
        reader.weigh(states, weights, partial(empty, part))
        for part, states in enumerate(windows.split(widths, dim=-1))
    ]
    return torch.cat(weighed, dim=-1).reshape(text.shape)


def _empty(net: Attachment, prompts: TokenisedPrompts) -> Tensor:
    """Return what the encoder says of no words [b l d].

    In a window behind the prompts' own where it reads windows: some networks are told zeros in place of an
    empty prompt, but never in place of an empty window.
    """
    tokenizer, row = net.backbone.tokenizer, []
    for one in (tokenizer, *getattr(tokenizer, "beside", ())):
        lead = [one.start] if one.start >= 0 else []
        row += [*lead, one.end, *[one.pad] * (one.length - len(lead) - 1)]
    empty = torch.tensor([row], device=prompts.ids.device).expand(len(prompts.ids), -1)
    if reads_windows(tokenizer):
        ids = torch.cat([prompts.ids, empty], dim=1)
        return net.backbone.encode_ids(ids)[0][:, -tokenizer.length :]
    with net.under(spans={}):
        return net.backbone.encode_ids(empty)[0]


def tell_weighted(texts: Sequence[str]) -> None:
    """Say which texts look as if their words had weights, or named files, where nobody reads them."""
    for text in texts:
        if match := FILE.search(text):
            _tell_file(text, match[0])
        for syntax in ("a1111", "compel"):
            if weight := weight_in(text, syntax):
                _tell(text, weight, syntax)


def weight_in(text: str, syntax: str) -> str:
    """Return the first piece of ``text`` that looks like a weight in ``syntax`` ("a1111", "compel"), or ""."""
    if syntax == "compel":
        match = BEHIND.search(text)
        return _from_bracket(text, match.start(), match.end()) if match else ""
    match = ENDS.search(text)
    if match and (weight := _from_bracket(text, match.end() - 1, match.end())):
        return weight
    unclosed = UNCLOSED.search(text)
    return unclosed[0] if unclosed else ""


def _from_bracket(text: str, last: int, end: int) -> str:
    """Return ``text`` up to ``end`` from the bracket that the one at ``last`` closes, or "" where none does.

    What ends in no bracket begins with its word.
    """
    if text[last] != ")":
        return re.split(r"\s", text[:end])[-1]
    depth = 0
    for place in range(last, -1, -1):
        if text[place] in "()" and text[place - 1 : place] != "\\":
            depth += 1 if text[place] == ")" else -1
            if not depth:
                return text[place:end]
    return ""


@lru_cache(maxsize=1024)  # one text is read again and again in a drawing or a fit: say it once
def _tell_file(text: str, name: str) -> None:
    LOGGER.warning(
        "the text %r: %r is read as words, and no file is loaded: import it as an artifact, and draw with that",
        _beginning(text),
        name,
    )


def _beginning(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40].rstrip()}..."


@lru_cache(maxsize=1024)
def _tell(text: str, weight: str, syntax: str) -> None:
    unclosed = syntax == "a1111" and not weight.endswith(")")
    LOGGER.warning(
        "the text %r: %r is read as it is written, brackets, number and all. In prompts a reader of weights "
        "reads it%s: --weights %s",
        *(_beginning(text), weight, " where its bracket is closed" if unclosed else "", syntax),
    )
