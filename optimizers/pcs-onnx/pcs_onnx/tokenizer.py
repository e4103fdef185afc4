"""The tokenizer of a deployment, by ``tokenizers`` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class FileTokenizer:
    """Text to ids by a ``tokenizer.json``; ``facts`` are the length and the special ids."""

    def __init__(self, file: Path, facts: Mapping[str, int]) -> None:
        from tokenizers import Tokenizer

        self.inner: Any = Tokenizer.from_file(str(file))
        self.inner.no_truncation()
        self.inner.no_padding()
        self.length, self.start = facts["length"], facts["start"]
        self.end, self.pad = facts["end"], facts["pad"]

    def encode(self, text: str) -> list[int]:
        """Return ids without start, end and padding."""
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def is_entry(self, text: str) -> bool:
        """True when ``text`` is one existing entry of the vocabulary."""
        return len(self.encode(text)) == 1
