"""The tokenizer: byte-level pieces, and merges that make each word of the grammar one token.

Any other word falls apart into known pieces; nothing is ever unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from pcs_mini.world.captions import vocabulary

LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges until each word is one piece; ties go to the alphabetically first pair."""
    split = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for pieces in split for pair in zip(pieces, pieces[1:], strict=False))
        if not counts:
            return merges
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for pieces in split:
            at = 0
            while at < len(pieces) - 1:
                if (pieces[at], pieces[at + 1]) == best:
                    pieces[at : at + 2] = ["".join(best)]
                at += 1


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer over the grammar's words; 32 tokens at most, padded with end-of-text."""
    pieces = sorted(ByteLevel.alphabet())
    merges = learn_merges(vocabulary())
    vocab = {piece: i for i, piece in enumerate([*pieces, *(p + "</w>" for p in pieces)])}
    for first, second in merges:
        vocab.setdefault(first + second, len(vocab))
    for special in (START, END):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)
