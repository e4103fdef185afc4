"""Variables, parameters, attributes and functions say what they hold, in the words of the field."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("pcs_core", "pcs_engine", "plugins", "optimizers", "scripts", "tests")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

# they fit whatever a function finds, gets or keeps: name the thing (graphs, digests, expected)
CATCH_ALL = {"found", "own", "held", "wanted", "told", "untold"}
CASTS = (
    "plugins/pcs-defense/",  # of a colour over a picture
    "optimizers/pcs-onnx/",  # to another type of numbers
    "pcs_engine/precision.py",
)
FORMER = {
    "person": ("artifact", ("plugins/pcs-mini/",)),  # somebody whom Mini draws
    "persons": ("artifacts", ("plugins/pcs-mini/",)),
    "ruler": ("metric", ()),
    "rulers": ("metrics", ()),
    "lesson": ("stage of the curriculum", ()),
    "lessons": ("curriculum", ()),
    "canvas": ("renderable", ()),
    "cast": ("population", CASTS),
    "merits": ("quality", ()),
    "law": ("timestep sampler", ()),
    "laws": ("timestep samplers", ()),
    "lawful": ("of the sampler's distribution", ()),
    "speakers": ("techniques", ()),
    "swapedit": ("ReplaceEdit", ()),
}
"""Word -> what the project says instead, and where it is the right word for something else."""
VAGUE_CLASSES = {"Kept", "Look", "Told"}


def texts() -> Iterator[tuple[str, str]]:
    """Yield name and text of every Python file, and of the Python in the pages."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT)
            if not any(part.startswith(".") or part == "build" for part in place.parts[:3]):
                yield place.as_posix(), path.read_text("utf-8")
    for page in sorted((ROOT / "docs").glob("*.md")):
        for block in BLOCK.findall(page.read_text("utf-8")):
            yield page.relative_to(ROOT).as_posix(), block


def identifiers(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of each variable, parameter, attribute, function, class and import's other name.

    Keywords of calls are the names of parameters elsewhere, perhaps of another library.
    """
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                yield node.lineno, name
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield node.lineno, name
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
                yield node.lineno, name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name


def complaints(place: str, text: str) -> Iterator[str]:
    """Yield what is wrong with the names of one file."""
    for line, name in identifiers(text):
        if name.strip("_") in CATCH_ALL | VAGUE_CLASSES:
            yield f"{place}:{line}: {name!r} says nothing of what it holds"
        if name.startswith("test_"):  # a sentence
            continue
        for word in set(name.lower().split("_")) & FORMER.keys():
            instead, allowed = FORMER[word]
            if not place.startswith(allowed):
                yield f"{place}:{line}: {name!r}: this project says {instead}"


def test_names_say_what_they_hold() -> None:
    faults: list[str] = []
    files = 0
    for place, text in texts():
        try:
            faults += dict.fromkeys(complaints(place, text))
        except SyntaxError:
            assert place.endswith(".md"), place  # a part of a program, in a page
            continue
        files += 1
    assert not faults, "\n".join(faults)
    assert files > 500


@pytest.mark.parametrize(
    "text",
    [
        "found = 1",
        "for held in rows: pass",
        "def f(x, *, wanted=1): ...",
        "def own(x): ...",
        "told = lambda untold: 1",
        "x = self.found",
        "x = f'{held}'",
        "import x as found",
        "class A:\n    held: int",
        "class A:\n    def f(self):\n        self._held = 0",
        "first_person = 1",
        "class A:\n    merits = 1",
        "def draw(canvas): ...",
        "def law(self): ...",
        "class SwapEdit: ...",
        "class Look(AttnEdit): ...",
    ],
)
def test_what_is_refused(text: str) -> None:
    assert list(complaints("pcs_core/x.py", text))


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("pcs_core/x.py", "rows = f(found=1)  # what was found"),
        ("pcs_core/x.py", "rows = table['found']"),
        ("plugins/pcs-mini/x.py", "person = 1"),
        ("plugins/pcs-defense/x.py", "cast = 1"),
        ("pcs_core/x.py", "def test_what_a_person_sees(): ..."),
    ],
)
def test_what_is_not(place: str, text: str) -> None:
    assert not list(complaints(place, text))
