"""The tokenizers of a deployment, by ``tokenizers`` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pcs_core.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pcs_core.backbone import Attachment


class FileTokenizer:
    """Text to ids by a ``tokenizer.json``; ``facts`` are the length, the special ids and others ``beside``."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], number: int = 0) -> None:
        from tokenizers import Tokenizer

        self.inner: Any = Tokenizer.from_file(str(folder / file_name(number)))
        self.inner.no_truncation()
        self.inner.no_padding()
        self.length, self.start = facts["length"], facts["start"]
        self.end, self.pad = facts["end"], facts["pad"]
        self.beside = tuple(
            FileTokenizer(folder, further, i)
            for i, further in enumerate(facts.get("beside", ()), start=1)
        )

    def encode(self, text: str) -> list[int]:
        """Return ids without start, end and padding."""
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def is_entry(self, text: str) -> bool:
        """True when ``text`` is one existing entry of the vocabulary."""
        return len(self.encode(text)) == 1


def file_name(number: int) -> str:
    """Return where the tokenizer lies: the first one, and those beside it."""
    return f"tokenizer-{number}.json" if number else "tokenizer.json"


def write_tokenizers(net: Attachment, folder: Path) -> dict[str, Any]:
    """Write the backbone's tokenizers; return what the manifest says of them.

    Raises
    ------
    CapabilityError
        One has no form that ``tokenizers`` reads.
    """
    first: Any = net.backbone.tokenizer
    beside = tuple(getattr(first, "beside", ()))
    facts: list[dict[str, Any]] = []
    for number, tokenizer in enumerate((first, *beside)):
        fast = getattr(getattr(tokenizer, "inner", None), "backend_tokenizer", None)
        if fast is None:
            raise CapabilityError(
                f"backbone {net.backbone.card.id!r}: its tokenizer has no form that `tokenizers` reads"
            )
        fast.save(str(folder / file_name(number)))
        names = ("length", "start", "end", "pad")
        facts.append({name: int(getattr(tokenizer, name)) for name in names})
    return {**facts[0], "beside": facts[1:]}
