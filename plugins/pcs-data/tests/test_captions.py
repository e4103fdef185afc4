"""Captions around what the user wrote, and the usual content where nothing is written."""

from __future__ import annotations

from pcs_core import open_backbone
from pcs_core.data import Subject
from pcs_data.captions import Captions
from pcs_engine.prepare import extract
from pcs_engine.run import EngineRun
from pcs_testing import make_recipe, make_subject


def captions(subject: Subject, **settings: object) -> list[tuple[str, ...]]:
    backbone = open_backbone("tiny")
    recipe = make_recipe([Captions.from_settings(settings)])
    run = EngineRun(recipe, backbone, concepts=[subject.concepts])
    (features,) = extract(run, [subject])[1]
    return [e.captions for e in features.examples]


def test_the_users_words_are_the_content() -> None:
    subject = make_subject(
        token="<ink>", noun="ink drawing", images=3, captions=("a cat", None, "a house as <ink>")
    )
    assert captions(subject) == [
        ("a cat in <ink> style",),
        ("a picture in <ink> style",),
        ("a house as <ink>",),
    ]


def test_several_templates_are_alternatives() -> None:
    subject = make_subject(token="<ink>", noun="ink drawing", images=2, captions=("a cat", None))
    actual = captions(subject, templates=["{content}, {token}", "{token}: {content}"], content="it")
    assert actual == [("a cat, <ink>", "<ink>: a cat"), ("it, <ink>", "<ink>: it")]
