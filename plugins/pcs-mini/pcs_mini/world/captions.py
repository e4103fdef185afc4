"""The grammar of captions: phrasing, style, colour, noun, place."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from pcs_mini.world.places import PLACES, phrase
from pcs_mini.world.roster import roster

TEMPLATES: tuple[str, ...] = (
    "a photo of {}",
    "a picture of {}",
    "{}",
    "an image of {}",
    "a drawing of {}",
)

EXTRA_WORDS: tuple[str, ...] = ("background", "the", "with", "and")


def caption(
    noun: str,
    place: str | None = None,
    style: str = "",
    colour: str = "",
    filler: str = "",
    template: str = "{}",
) -> str:
    """One caption, as in ``a photo of a flat red car on the beach``."""
    words = " ".join(word for word in ("a", style, colour, filler, noun) if word)
    text = template.format(words)
    return text if place is None else f"{text} {phrase(place)}"


def draw_caption(
    rng: np.random.Generator, noun: str, place: str, style: str, colour: str = ""
) -> str:
    """A caption of the grammar; some leave out the style or the place, some hold a made-up word."""
    letters = string.ascii_lowercase
    filler = "".join(letters[i] for i in rng.integers(0, 26, 3)) if rng.random() < 0.05 else ""
    template = TEMPLATES[rng.integers(len(TEMPLATES))] if rng.random() < 0.6 else "{}"
    return caption(
        noun,
        place if rng.random() < 0.94 else None,
        style if rng.random() < 0.65 else "",
        colour,
        filler,
        template,
    )


def vocabulary() -> Sequence[str]:
    """Every word of the grammar with more than one letter, sorted."""
    people = roster()
    texts = [*people.world_nouns, *people.all_styles, *EXTRA_WORDS]
    texts += [phrase(place) for place in PLACES]
    texts += [template.format("a") for template in TEMPLATES]
    return sorted({word for text in texts for word in text.split() if len(word) > 1})
