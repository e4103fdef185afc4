"""CLIP's vocabulary without a download: the table of merges that the package ``open_clip_torch`` brings.

All Stable Diffusion families read with it: 512 signs for bytes (256, and the same at the end of a word), 48,894
merges and two marks (OpenAI's CLIP, ``simple_tokenizer.py``).
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from pcs_core.errors import InputError

FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2
"""Lines of the table that count, behind its heading: what is left of 49,152 beside bytes at the end of a word
and two marks."""
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
"""Of the file, as OpenAI published it."""
START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77


def clip_tokenizer(pad: str = END) -> Any:
    """Return CLIP's tokenizer of 49,408 entries; ``pad`` fills a prompt up ("!" in SDXL's second).

    Raises
    ------
    InputError
        The package with the vocabulary is not installed.
    """
    from transformers import CLIPTokenizer

    merges = clip_merges()
    signs = byte_signs()
    words = [*signs, *(f"{sign}</w>" for sign in signs)]
    words += ["".join(pair) for pair in merges] + [START, END]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=list(merges),
        pad_token=pad,
        model_max_length=LENGTH,
    )


@cache
def clip_merges() -> tuple[tuple[str, str], ...]:
    """Return the pairs that are merged, the first ones first.

    Raises
    ------
    InputError
        The package with the table is not installed, or its table is another one.
    """
    package = importlib.util.find_spec("open_clip")
    places = package.submodule_search_locations if package else None
    file = Path(next(iter(places))) / FILE if places else None
    if file is None or not file.is_file():
        raise InputError(
            "CLIP's vocabulary is not here: pip install open_clip_torch, which brings it, or put the "
            "tokenizers into a folder beside the file"
        )
    packed = file.read_bytes()
    if hashlib.sha256(packed).hexdigest() != SHA256:
        raise InputError(f"{file} is not CLIP's vocabulary: reinstall open_clip_torch")
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    pairs = [line.split() for line in lines[1 : MERGES + 1]]
    return tuple((first, second) for first, second in pairs)


def byte_signs() -> list[str]:
    """Return the sign for each byte in the order of the vocabulary: those that can be printed first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = len([b for b in range(256) if b not in printable])
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(others)]
