"""Words of a prompt weigh more or less where their writer says so: ``(word:1.3)``, ``word+``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import torch

from pcs_core import Technique, hookimpl
from pcs_core.backbone import weight_in
from pcs_core.data import Fusion
from pcs_tokens.weight_syntax import SYNTAXES, Parts

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Run


LOGGER = logging.getLogger("pcs")
ROUNDING = 1e-5
"""A mean that is smaller than this part of the numbers' size is rounding."""


@lru_cache(maxsize=1024)  # one text is read again and again in a drawing: say it once
def tell_unread(text: str, syntax: str, other: str) -> None:
    """Say what looks like a weight in ``text`` and is none in ``syntax``."""
    if weight := weight_in(text, other):
        LOGGER.warning(
            "%r weighs nothing as %s reads it: it looks like a weight of %s (--weights %s)",
            *(weight, syntax, other, other),
        )
    if syntax == "a1111" and (weight := weight_in(text, syntax)) and not weight.endswith(")"):
        LOGGER.warning(
            "%r is never closed: as a1111 reads it, it weighs 1.1 up to the end, and its number is text",
            weight,
        )


class Scaled:
    """As the web UI of AUTOMATIC1111 weighs (``modules/sd_emphasis.py``, "Original" and "No norm").

    z' = w z at each position, then z' mean(z) / mean(z'), the means over all numbers of one window. Where the
    mean is nothing but rounding, as behind a normalisation that was never trained, z' stays as it is.
    """

    def __init__(self, restored: bool) -> None:
        self.restored = restored

    def parts(self, text: str) -> Parts:
        """Return the pieces of ``text`` with their weights."""
        return SYNTAXES["a1111"](text)

    def tell(self, text: str) -> None:
        """Say what looks like a weight and is none."""
        tell_unread(text, "a1111", "compel")

    def weigh(self, text: Tensor, weights: Tensor, empty: Callable[[], Tensor]) -> Tensor:
        """Return text [n l d] times weights [n l], the mean of each row as before."""
        scaled = text * weights[..., None]
        if not self.restored:
            return scaled
        before, after = (t.double().mean((1, 2), keepdim=True) for t in (text, scaled))
        real = torch.minimum(before.abs(), after.abs()) > ROUNDING * text.double().abs().mean(
            (1, 2), keepdim=True
        )
        ratio = torch.where(real, before / after, 1.0).to(text)
        return torch.where((weights == 1).all(1)[:, None, None], text, scaled * ratio)


class Lerped:
    """As compel weighs (``EmbeddingsProvider.build_weighted_embedding_tensor``): z' = e + w (z - e).

    e is what the encoder says of an empty prompt at that position. For weights below 1 compel also mixes in the
    prompt without these words; that is not done here.
    """

    def parts(self, text: str) -> Parts:
        """Return the pieces of ``text`` with their weights."""
        return SYNTAXES["compel"](text)

    def tell(self, text: str) -> None:
        """Say what looks like a weight and is none."""
        tell_unread(text, "compel", "a1111")

    def weigh(self, text: Tensor, weights: Tensor, empty: Callable[[], Tensor]) -> Tensor:
        """Return text [n l d] as far from the empty prompt's as weights [n l] say."""
        nothing, factor = empty(), weights[..., None]
        return torch.where(factor == 1, text, nothing + factor * (text - nothing))


class PromptWeights(Technique):
    r"""Read weights in prompts and negative prompts, and weigh what the text encoder says of these words.

    "a1111" reads ``(word)``, ``(word:1.3)``, ``[word]`` and ``\(``, scales the embeddings and restores their
    mean (AUTOMATIC1111's web UI, ``prompt_parser.py`` and ``sd_emphasis.py``); "compel" reads ``word+``,
    ``(some words)1.3`` and moves them away from the empty prompt's (compel, ``doc/syntax.md``). Pooled states
    stay as they are, as in both. Captions are read as they are written. ``pcs sample --weights`` adds it.
    """

    id = "tokens.prompt_weights"
    neutral = {"syntax": "off"}
    tiny_unseen = "no prompt of the tests has a weight; it has tests of its own"

    syntax: Literal["a1111", "compel", "off"] = "a1111"
    """Whose syntax is read and whose formula weighs."""
    restored: bool = True
    """Whether "a1111" restores the mean (its "Original") or not (its "No norm", which its authors advise for
    SDXL)."""

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Give the reader."""
        if self.syntax == "off":
            return None
        return Fusion(reader=Scaled(self.restored) if self.syntax == "a1111" else Lerped())
