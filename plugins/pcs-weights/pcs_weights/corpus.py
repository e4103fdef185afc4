"""Captions made from words: what the statistics of text features are taken over."""

from __future__ import annotations

import random

NOUNS = """
cat dog horse cow sheep goat pig rabbit mouse bear lion tiger elephant giraffe monkey fox wolf deer bird
owl duck chicken eagle parrot penguin fish shark whale turtle frog snake spider butterfly bee man woman
child girl boy baby farmer doctor soldier dancer cook king queen robot car bus truck train bicycle
motorcycle boat ship plane rocket house castle tower bridge church barn tent street road garden park
beach forest mountain hill river lake sea island desert field sky cloud moon star sun tree flower rose
leaf grass mushroom apple banana orange lemon cherry grape bread cake pizza sandwich egg cheese soup
coffee tea bottle cup glass plate bowl spoon fork knife table chair sofa bed lamp desk door window
mirror clock phone computer camera book newspaper letter pencil bag backpack box basket umbrella hat
shirt dress shoe boot sock glove scarf jacket coat crown ring necklace watch ball doll toy kite drum
guitar piano violin trumpet statue painting candle vase pillow blanket rope key coin sword shield flag
wheel hammer ladder bucket broom
""".split()

ADJECTIVES = """
red blue green yellow white black brown grey pink purple golden silver small large tiny huge tall short
round square old new young ancient modern wooden metal plastic paper broken shiny dirty clean wet dry
soft hard hot cold bright dark colorful beautiful ugly happy sad angry sleepy funny strange quiet loud
fast slow heavy light empty full open closed
""".split()

PLACES = (
    """
on the beach;in the snow;in a forest;in the city;on a table;on a red background;at night;at sunset;under
a tree;in the rain; near a lake;on a mountain;in a kitchen;in a garden;in front of a house;on the
moon;in space;in the desert;by the sea;on the grass;in a museum;at the market;in a classroom;on a
boat;behind a fence;in the fog;on a shelf;next to a window;in a cave;on the street
""".replace("\n", " ")
    .strip()
    .split(";")
)

FORMS = (
    "a photo of a {a} {n}",
    "a picture of a {n} {p}",
    "a drawing of a {a} {n} {p}",
    "a painting of a {n}",
    "an image of two {n}s {p}",
    "a {a} {n} {p}",
    "a {n} and a {m}",
    "a {a} {n} next to a {b} {m}",
    "a {n} with a {m} {p}",
    "close up of a {a} {n}",
    "the {n} of a {m}",
    "a {a} and {b} {n}",
    "many {n}s and one {m} {p}",
    "a {n} looks at a {a} {m}",
    "a {n} that holds a {m}",
    "a {a} {n} in the style of a {m}",
)
"""Sentences; n, m are nouns, a, b adjectives, p is a place."""


def captions(count: int) -> tuple[str, ...]:
    """Return ``count`` different captions, the same every time."""
    rng = random.Random(0)
    texts: dict[str, None] = {}
    while len(texts) < count:
        words = {key: rng.choice(NOUNS) for key in "nm"}
        words |= {key: rng.choice(ADJECTIVES) for key in "ab"}
        texts[rng.choice(FORMS).format(p=rng.choice(PLACES).strip(), **words)] = None
    return tuple(texts)
