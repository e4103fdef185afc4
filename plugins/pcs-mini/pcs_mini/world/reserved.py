"""Which combinations of concept, style and place training never draws: the quality gate asks for them."""

from __future__ import annotations

from hashlib import blake2b

RESERVED_SHARE = 0.05
"""Share of all combinations that is kept from training, 0..1."""


def is_reserved(concept: str, style: str, place: str) -> bool:
    """Whether training must not draw `concept` in `style` at `place`.

    All three are words of the world, as in ``is_reserved("dog", "glossy", "beach")``. The answer
    is a hash of the words: it needs no list, and stays when the world grows. Each of the three is
    trained in most other combinations, so a picture of a reserved one is put together, not
    remembered.
    """
    digest = blake2b(f"{concept}|{style}|{place}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < RESERVED_SHARE * 2**32
