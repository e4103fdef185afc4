"""Common things by name, among which a search for a word begins."""

from __future__ import annotations

CLASSES: tuple[str, ...] = tuple(
    """dog cat bird horse cow sheep pig goat rabbit mouse fox wolf bear lion tiger elephant monkey deer duck
    chicken owl eagle parrot penguin fish shark whale dolphin turtle frog snake lizard butterfly bee spider
    person man woman child face hand doll robot statue toy ball balloon kite teddy puppet figurine car truck
    bus train bicycle motorcycle boat ship airplane helicopter rocket wheel tractor house tower bridge castle
    church tent door window table chair sofa bed lamp clock mirror shelf cupboard desk book pen pencil paper
    letter box basket bag backpack suitcase umbrella hat cap shoe boot sneaker sandal shirt coat dress scarf
    glove glasses ring necklace watch crown mask cup mug bottle glass bowl plate teapot kettle vase jar can
    candle pot pan knife fork spoon bread cake pizza apple banana orange lemon strawberry tomato carrot mushroom
    egg cheese flower rose tree leaf cactus plant grass stone mountain river lake sea beach island forest field
    cloud sun moon star snow fire guitar piano violin drum trumpet telephone computer keyboard camera radio
    television hammer saw key lock rope flag sign coin painting photograph drawing""".split()
)
"""About two hundred words of one token each, or few."""
