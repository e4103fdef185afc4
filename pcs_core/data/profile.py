"""What a backbone wants of any recipe: numbers and words that its training set, no method."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """A backbone's own numbers, laid over recipes that were published on another one.

    ``steps`` and ``scale`` are the sampling steps and the guidance scale that suit it (None: the recipe's
    stay). ``rare_word`` is a string its text encoder knows and its training gave no meaning,
    ``class_prompt`` how its captions show a thing of class ``{noun}`` ("": the recipe's stay). ``saw``
    says in words what its training saw, ``clips`` whether it draws clips.

    A technique lists the settings that such a word may fill in its ``profiled`` attribute, so that no
    technique knows a backbone and no profile a technique.
    """

    id: str
    steps: int | None = None
    scale: float | None = None
    rare_word: str = ""
    class_prompt: str = ""
    saw: str = ""
    clips: bool = False


WORDS = ("rare_word", "class_prompt")
"""Fields that a technique's ``profiled`` may name."""
