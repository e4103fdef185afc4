"""What Mini wants of a recipe that was published on another backbone."""

from __future__ import annotations

from pcs_core.data.profile import Profile

MINI = Profile(
    "mini",
    steps=20,
    scale=3.0,
    # its captions hold made-up words of three letters that mean nothing: another kind of word is rarer
    rare_word="xqzv7",
    class_prompt="a picture of a {noun}",
    saw="128 pixel pictures of a small world: emoji-like things and people in a few drawing styles at "
    "simple places, with captions of one sentence",
)
