"""The core stays what somebody reads in an afternoon, and each of its files has a topic and a reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from count_lines import count
from pages.core import AIM, FIRST, PROMISES, assigned

ROOT = Path(__file__).resolve().parents[2]
MOST = 11_700
"""Lines of the whole core: what would bring more stands beside it, or takes the place of something."""


def test_what_is_read_first_is_an_afternoons() -> None:
    lines = count(ROOT / "pcs_core")
    groups = assigned(lines, (*FIRST, *PROMISES))
    assert sum(lines[path] for topic in FIRST for path in groups[topic.title]) < AIM
    assert sum(lines.values()) < MOST


def test_every_pattern_names_a_file() -> None:
    for topic in (*FIRST, *PROMISES):
        for pattern in topic.files:
            assert list((ROOT / "pcs_core").glob(pattern)), pattern


def test_a_file_without_a_topic_is_refused() -> None:
    with pytest.raises(SystemExit, match="stray/thing"):
        assigned({ROOT / "pcs_core" / "stray" / "thing.py": 1}, (*FIRST, *PROMISES))
