"""What a library warns of itself, and no user can mend, is not printed."""

from __future__ import annotations

import logging

import pytest

import pcs_diffusers

OWN = "<enum 'A'> is an Enum subclass. Calling register_constant() on Enum subclasses is deprecated"


@pytest.mark.parametrize(
    ("text", "shown"), [(OWN, []), ("a leaf is no tensor", ["a leaf is no tensor"])]
)
def test_torchao_s_own_enums_are_not_warned_of(
    text: str, shown: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert pcs_diffusers.__doc__
    logger = logging.getLogger("torch.utils._pytree")
    with caplog.at_level(logging.WARNING, logger=logger.name):
        logger.propagate, before = True, logger.propagate
        logger.warning(text)
        logger.propagate = before
    assert [record.getMessage() for record in caplog.records] == shown
