"""Tokenizers of transformers, with what the core asks of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


LONGEST = 4096
"""Tokens of one window of a text encoder; CLIP's has 77."""


class ClipTokenizer:
    """A transformers CLIP tokenizer. ``beside``: tokenizers of further encoders, ids behind its own.

    ``windows``: a text that is longer is read in several windows of its length.
    """

    def __init__(
        self, tokenizer: Any, beside: Sequence[T5Tokenizer] = (), *, windows: bool = False
    ) -> None:
        self.inner, self.beside, self.windows = tokenizer, tuple(beside), windows
        self.length = int(tokenizer.model_max_length)
        if not 2 <= self.length <= LONGEST:
            raise ValueError(
                f"model_max_length of its tokenizer is {self.length:.3g}, 2 to {LONGEST} is read"
            )
        self.start = int(tokenizer.bos_token_id)
        self.end = int(tokenizer.eos_token_id)
        self.pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end)

    def encode(self, text: str) -> list[int]:
        """Return ids without start, end and padding."""
        ids = self.inner(text, add_special_tokens=False, truncation=False, verbose=False)[
            "input_ids"
        ]
        return list(ids)

    def is_entry(self, text: str) -> bool:
        """True when ``text`` is one existing entry of the vocabulary."""
        return len(self.encode(text)) == 1


class T5Tokenizer:
    """A transformers T5 tokenizer: a prompt of ``length`` ids that begins with no id of its own."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.inner, self.length, self.start = tokenizer, length, -1
        self.end, self.pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)

    def encode(self, text: str) -> list[int]:
        """Return ids without end and padding."""
        ids = self.inner(text, add_special_tokens=False, truncation=False, verbose=False)[
            "input_ids"
        ]
        return list(ids)

    def is_entry(self, text: str) -> bool:
        """True when ``text`` is one existing entry of the vocabulary."""
        return len(self.encode(text)) == 1


def read_tokenizer(folder: Path) -> Any:
    """Load the CLIP tokenizer of a folder."""
    from transformers import CLIPTokenizer

    # without a vocabulary file an empty tokenizer would come out, and no error
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise OSError(f"{str(folder)!r} has no tokenizer.json or vocab.json")
    return CLIPTokenizer.from_pretrained(folder)


def read_t5_tokenizer(folder: Path) -> Any:
    """Load the T5 tokenizer of a folder, which needs its ``tokenizer.json``."""
    from transformers import T5Tokenizer

    if not (folder / "tokenizer.json").is_file():
        raise OSError(f"{str(folder)!r} has no tokenizer.json")
    return T5Tokenizer.from_pretrained(folder)
