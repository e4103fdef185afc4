"""The grammar of captions: what is said of subjects, their relation and their place."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pcs_mini.world.assets import Assets
from pcs_mini.world.backdrops import known, phrase
from pcs_mini.world.places import COLOURS

TEMPLATES: tuple[str, ...] = (
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "{}",
)
SAID: dict[str, float] = {
    "template": 0.6,
    "style": 0.6,
    "place": 0.94,
    "short": 0.35,
    "category": 0.05,
    "filler": 0.03,
    "view": 0.6,
    "traits": 0.6,
    "expression": 0.7,
}
"""How often a caption says what it could say."""

RELATIONS: dict[str, tuple[str, ...]] = {
    "next to": ("next to", "beside"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "on top of": ("on top of", "on"),
    "behind": ("behind",),
    "under": ("under", "below"),
}
"""Relation -> its phrasings; the first subject of a scene stands in it to the second."""

WORDS_FILE = Path(__file__).parent / "words.toml"
_SINGULAR_S = ("ss", "us", "is", "as", "os")
"""Endings in s that are no plural."""
_AN_SOUNDS = ("hour", "honest", "heir", "x-ray")
_A_SOUNDS = ("uni", "use", "uku", "ufo", "euro", "one", "ute", "uter")
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Mention:
    """What a caption can say of one subject; an empty string is left out."""

    noun: str
    short: str = ""
    """A plainer word that may be said instead."""
    category: str = ""
    """The kind of thing, said instead of the noun now and then."""
    style: str = ""
    colour: str = ""
    expression: str = ""
    """As an adjective: ``smiling``."""
    traits: tuple[str, ...] = ()
    """Said after ``with``: ``red hair``."""
    accessories: tuple[str, ...] = ()
    """Said after ``wearing``: ``glasses``, ``a hat``."""
    view: str = ""
    """``from the front``."""


def article(words: str) -> str:
    """``a`` or ``an`` before these words, or nothing before plurals and stuff.

    >>> article("owl"), article("unicorn"), article("red grapes")
    ('an', 'a', '')
    """
    # of "girl in blue stripes" the girl decides
    head = words.partition(" in ")[0]
    if head.endswith("s") and not head.endswith(_SINGULAR_S):
        return ""
    parts = head.split()
    if any(" ".join(parts[at:]) in _bare() for at in range(len(parts))):
        return ""
    first = words.split()[0]
    if first.startswith(_AN_SOUNDS):
        return "an"
    if first.startswith(_A_SOUNDS):
        return "a"
    return "an" if first[0] in _VOWELS else "a"


@cache
def _bare() -> frozenset[str]:
    return frozenset(_table()["bare"])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(WORDS_FILE.read_text(encoding="utf-8"))


@cache
def _shorter() -> dict[str, str]:
    """Concept -> the plain word that may stand for it."""
    return {concept: word for word, concepts in _table()["short"].items() for concept in concepts}


def noun_of(concept: str) -> str:
    """What a caption calls the concept: numbered people have no names.

    >>> noun_of("person 12"), noun_of("fire engine")
    ('person', 'fire engine')
    """
    return concept.rstrip("0123456789 ")


def short_of(concept: str) -> str:
    """The plain word for a concept, as ``apple`` for ``red apple``; empty where there is none."""
    return _shorter().get(concept, "")


def kind_of(concept: str, category: str) -> str:
    """The word for the concept's category, as ``animal``; empty where none fits."""
    if concept in _table()["no_kind"]:
        return ""
    return _table()["category"].get(category, "")


def with_article(words: str) -> str:
    """The words with ``a`` or ``an`` before them where one belongs."""
    return f"{article(words)} {words}".strip()


def noun_phrase(mention: Mention) -> str:
    """One subject, as in ``a glossy red dog wearing a hat``."""
    core = (mention.style, mention.colour, mention.expression, mention.noun)
    text = with_article(" ".join(word for word in core if word))
    if mention.traits:
        text += " with " + " and ".join(mention.traits)
    if mention.accessories:
        text += " wearing " + " and ".join(mention.accessories)
    return f"{text} {mention.view}" if mention.view else text


def group(mentions: Sequence[Mention], relation: str | None = None) -> str:
    """Several subjects: in a relation (its phrasing), or as a list."""
    said = [noun_phrase(m) for m in mentions]
    if relation is not None:
        return f"{said[0]} {relation} {said[1]}"
    if len(said) == 1:
        return said[0]
    return f"{', '.join(said[:-1])} and {said[-1]}"


def prompt(
    mentions: Sequence[Mention],
    place: str | None = None,
    relation: str | None = None,
    template: str = "a photo of {}",
) -> str:
    """The plain phrasing, for evaluation: ``a photo of a dog next to a cat on the beach``."""
    text = template.format(group(mentions, relation))
    return text if place is None else f"{text} {phrase(place)}"


def made_up(rng: np.random.Generator, taken: frozenset[str] = frozenset()) -> str:
    """A word of 3 to 6 letters that is none of `taken`."""
    while True:
        letters = rng.integers(0, 26, rng.integers(3, 7))
        word = "".join(string.ascii_lowercase[i] for i in letters)
        if word not in taken:
            return word


def caption(
    rng: np.random.Generator,
    mentions: Sequence[Mention],
    place: str | None = None,
    relation: str | None = None,
) -> str:
    """One caption of the grammar; it may leave out style, place and view, and is never untrue."""
    chosen = [_choose(rng, mention) for mention in mentions]
    if len(chosen) > 1:
        # with more subjects, less is said of each
        chosen = [replace(m, traits=m.traits if rng.random() < 0.3 else ()) for m in chosen]
    styles = {mention.style for mention in mentions}
    template = TEMPLATES[0 if rng.random() < 0.4 else rng.integers(len(TEMPLATES))]
    if rng.random() > SAID["template"]:
        template = "{}"
    ending = ""
    if len(styles) == 1 and "" not in styles and rng.random() < SAID["style"]:
        way = rng.random()
        style = mentions[0].style
        if way < 0.3:
            noun = ("picture", "drawing", "image")[rng.integers(3)]
            template = f"{with_article(f'{style} {noun}')} of {{}}"
        elif way < 0.5:
            ending = f" in {style} style"
        else:
            chosen = [replace(mention, style=style) for mention in chosen]
    elif len(styles) > 1 and rng.random() < SAID["style"]:
        chosen = [
            replace(few, style=mention.style) for few, mention in zip(chosen, mentions, strict=True)
        ]
    if rng.random() < SAID["filler"]:
        chosen, template, ending = _fill(rng, chosen, template, ending)
    said = None
    if relation is not None:
        ways = RELATIONS[relation]
        said = ways[rng.integers(len(ways))]
    text = template.format(group(chosen, said)) + ending
    if place is None or rng.random() > SAID["place"]:
        return text
    order = rng.random()
    if order < 0.08:
        return f"{phrase(place)}, {text}"
    if order < 0.14 and not ending and template == "{}":
        plural = len(chosen) > 1 and relation is None
        return f"there {'are' if plural else 'is'} {text} {phrase(place)}"
    return f"{text} {phrase(place)}"


def _choose(rng: np.random.Generator, mention: Mention) -> Mention:
    """The mention without its style and, by chance, with less said."""
    chance = rng.random(5)
    noun = mention.noun
    if mention.category and chance[0] < SAID["category"]:
        noun = mention.category
    elif mention.short and chance[1] < SAID["short"]:
        noun = mention.short
    return replace(
        mention,
        noun=noun,
        style="",
        view=mention.view if chance[2] < SAID["view"] else "",
        traits=mention.traits if chance[3] < SAID["traits"] else (),
        expression=mention.expression if chance[4] < SAID["expression"] else "",
    )


def _fill(
    rng: np.random.Generator, mentions: list[Mention], template: str, ending: str
) -> tuple[list[Mention], str, str]:
    """Put a made-up word somewhere: such words must mean nothing until they are learned."""
    word = made_up(rng)
    where = rng.integers(4)
    if where == 0:
        return (
            [replace(mentions[0], noun=f"{word} {mentions[0].noun}"), *mentions[1:]],
            template,
            ending,
        )
    if where == 1:
        return (
            [replace(mentions[0], noun=f"{mentions[0].noun} {word}"), *mentions[1:]],
            template,
            ending,
        )
    if where == 2:
        return mentions, f"{word} {template}", ending
    return mentions, template, f"{ending} {word}"


def vocabulary(assets: Assets) -> tuple[str, ...]:
    """Every word that a caption can hold, made-up ones aside; sorted."""
    texts: list[str] = [phrase(place) for place in known(assets)]
    texts += [*TEMPLATES, *COLOURS, *assets.words]
    texts += [*_table()["short"], *_table()["category"].values()]
    texts += [way for ways in RELATIONS.values() for way in ways]
    texts += ["a an and the with wearing in style there is are picture drawing image person"]
    texts += ["from front side back above glasses hat hair beard moustache"]
    words = {word.strip(",") for text in texts for word in text.split()}
    return tuple(sorted(word for word in words if len(word) > 1 and word.isalpha()))
