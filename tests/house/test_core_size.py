"""The core stays what somebody reads in an afternoon; each file of core and engine has a topic."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from count_lines import count
from pages.core import AIM, PACKAGES, assigned

ROOT = Path(__file__).resolve().parents[2]
MOST = {"pcs_core": AIM, "pcs_engine": 5_500}
"""Lines of each package: what would bring more stands beside it, or takes the place of something."""


@pytest.mark.parametrize("package", PACKAGES)
def test_it_stays_small(package: str) -> None:
    lines = count(ROOT / package)
    assert sum(map(len, assigned(package, lines).values())) == len(lines)
    assert sum(lines.values()) < MOST[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_pattern_names_a_file(package: str) -> None:
    for topic in PACKAGES[package]:
        for pattern in topic.files:
            assert list((ROOT / package).glob(pattern)), pattern


def test_a_file_without_a_topic_is_refused() -> None:
    with pytest.raises(SystemExit, match="stray/thing"):
        assigned("pcs_core", {ROOT / "pcs_core" / "stray" / "thing.py": 1})
