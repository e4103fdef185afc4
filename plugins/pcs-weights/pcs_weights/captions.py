"""Text features of captions: what a merge holds fixed, and what it must not disturb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Personalization

TEMPLATE = "a photo of {}"
"""Caption of a concept whose words are held fixed."""

REGULARISATION: tuple[str, ...] = (
    "a photo of a {}",
    "a picture of a {} on the grass",
    "a drawing of a {}",
    "a {} on the beach",
    "a {} on a red background",
    "a {} in the snow",
    "a large {}",
    "a small {}",
)
"""Captions of any noun, with their settings."""

NOUNS = "cat dog car house tree cup toy bird boat flower chair book".split()
"""Nouns that they are filled with."""


def target_features(artifact: Personalization, backbone: Any, template: str) -> Tensor:
    """Return the text features [t d] of the caption words, from the token on, of each concept."""
    from pcs_core import text_features

    rows = []
    for concept in artifact.concepts:
        named = template.format(f"{concept.token} {concept.noun}")
        text, length, first = text_features(artifact, backbone, named)
        rows.append(text[0, first[0] if first else 1 : length[0]])
    return torch.cat(rows).float().cpu()


def regular_features(
    artifacts: Sequence[Personalization], backbone: Any, captions: Sequence[str]
) -> Tensor:
    """Return text features [n d] of the regularisation captions over many nouns, end token included."""
    from pcs_core import text_features

    nouns = dict.fromkeys([c.noun for p in artifacts for c in p.concepts] + NOUNS)
    rows = []
    for noun in nouns:
        for caption in captions:
            text, length, _ = text_features(None, backbone, caption.format(noun))
            rows.append(text[0, 1 : length[0] + 1])
    return torch.cat(rows).float().cpu()
