"""The hash of a technique's code follows what it does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_evidence import code_hash as module
from pcs_evidence.code_hash import code_hash, normalised

TECHNIQUE = '''
"""What it is."""
from x_hashed.network import width
from pcs_core import Technique

class Shift(Technique):
    """Shifts."""

    id = "toy.shift"
    rank: int = 1
    """Its rank."""

    def size(self):
        return f"{width() + 1} of {self.rank}"  # a comment
'''


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Return the hash of a technique written as this text, beside a network written as that one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "x_hashed"
    folder.mkdir()
    (folder / "__init__.py").write_text("")

    def write(technique: str, network: str) -> str:
        (folder / "technique.py").write_text(technique)
        (folder / "network.py").write_text(network)
        for name in [n for n in sys.modules if n.startswith("x_hashed")]:
            del sys.modules[name]
        module.reached.cache_clear()
        module._module_hash.cache_clear()
        importlib.invalidate_caches()
        return code_hash([importlib.import_module("x_hashed.technique").Shift])

    return write


NETWORK = "def width():\n    return 4\n"


def test_words_and_layout_change_nothing(hashed: Callable[[str, str], str]) -> None:
    before = hashed(TECHNIQUE, NETWORK)
    reworded = TECHNIQUE.replace("Shifts.", "Moves\n    far.").replace("# a comment", "# another")
    reworded = reworded.replace('"""Its rank."""', '"""How many."""').replace(
        "    def", "\n\n    def"
    )
    assert (
        hashed(reworded, "# the width\n" + NETWORK.replace("return 4", "\n    return 4")) == before
    )


@pytest.mark.parametrize(
    ("technique", "network"),
    [
        (TECHNIQUE.replace("+ 1", "+ 2"), NETWORK),
        (TECHNIQUE.replace("rank: int = 1", "rank: int = 2"), NETWORK),
        (TECHNIQUE.replace(" of ", " by "), NETWORK),
        (TECHNIQUE, NETWORK.replace("4", "5")),
        (TECHNIQUE, NETWORK.replace("    return 4", "    if True:\n        pass\n    return 4")),
    ],
)
def test_what_it_does_counts(
    hashed: Callable[[str, str], str], technique: str, network: str
) -> None:
    assert hashed(technique, network) != hashed(TECHNIQUE, NETWORK)


def test_what_a_class_says_to_tests_does_not_count() -> None:
    plain = "class A:\n    neutral = {}\n    rank = 1\n"
    declared = "class A:\n    neutral = {}\n    tiny = {\n        'rank': 2\n    }\n    rank = 1\n"
    assert normalised(declared) == normalised(plain)
    assert normalised("tiny = 1\n") != normalised("tiny = 2\n")  # not of a class


def test_where_a_block_ends_counts() -> None:
    inside = normalised("if a:\n    b()\n    c()\n")
    assert inside != normalised("if a:\n    b()\nc()\n")


def test_a_string_that_is_no_docstring_counts() -> None:
    assert normalised("x = 'one'\n") != normalised("x = 'two'\n")
