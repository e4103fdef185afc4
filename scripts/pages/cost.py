"""docs/cost-of-a-system.md: the files and lines that a system and a technique are, counted in the tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from count_lines import code_lines

from pages.tree import ROOT, distributions, row
from pcs_core.catalogue import catalogue

INTRO = """# Cost of a system

What one more system, or one more technique, is written in: counted in the tree, so that it stays small.

Lines are those that are neither blank, comment nor docstring (`scripts/count_lines.py`). Generated parts of the
docs (`make docs`), records of runs (`make evidence`) and pictures are made by a command and are not counted.

"""


def cost_page() -> str:
    """Return docs/cost-of-a-system.md."""
    systems = {id: list(system_files(id)) for id in sorted(catalogue().recipe_files())}
    techniques = {id: list(technique_files(id)) for id in catalogue().ids("techniques")}
    text = (
        INTRO + "## In short\n\nMedians over what is there.\n\n| | files | lines |\n|---|---|---|\n"
    )
    plain = [[p for p in files if not tuning(p)] for files in systems.values()]
    overlays = [[p] for files in systems.values() for p in files if tuning(p)]
    text += _summary("a pure recipe: techniques that are there, checked by claims", pure(systems))
    text += _summary("any system, its claims in Python included", plain)
    text += _summary("its numbers for one more backbone, where a paper's do not serve", overlays)
    tested = [files[:2] for files in techniques.values() if len(files) > 1]
    text += _summary("a technique with its test, and a fragment of the changelog", tested, more=1)
    text += (
        f"\n{len(pure(systems))} of {len(systems)} systems are pure recipes; the others also have a claim in "
        "Python, about how their parts act together. A recipe holds the paper's numbers and runs on every "
        "backbone it names. An overlay in `tuning/` is a second file, which a system needs only on a backbone "
        "unlike the paper's: Mini has a fortieth of the weights of the one most papers use, so nearly every "
        "system has one for it.\n"
        "\nNothing else is touched: recipes and techniques are found by their files, what a small network can "
        "afford stands in the technique's class, and every list of them is generated. "
        "`tests/systems/test_strangers_walk.py` walks this way, `tests/house/test_cost.py` counts the files.\n"
    )
    text += "\n## Systems\n\n| system | files written by hand | lines |\n|---|---|---|\n"
    for id, files in systems.items():
        text += row(f"`{id}`", names(files), sum(map(lines, files)))
    text += "\n## Techniques\n\n| technique | module | lines | tests |\n|---|---|---|---|\n"
    for id, files in techniques.items():
        tests = names(files[1:]) or "by the contract alone"
        text += row(f"`{id}`", names(files[:1]), lines(files[0]), tests)
    return text


def pure(systems: Mapping[str, Sequence[Path]]) -> list[list[Path]]:
    """Return the files, apart from tuning, of the systems that need no Python of their own."""
    plain = ([p for p in files if not tuning(p)] for files in systems.values())
    return [files for files in plain if all(p.suffix == ".toml" for p in files)]


def system_files(id: str) -> Iterator[Path]:
    """Yield the files written by hand for one system alone: its recipe first, then what is named after it."""
    recipe = Path(str(catalogue().recipe_file(id)))
    yield recipe
    names = [f"{id}.toml", f"{id.replace('-', '_')}.py"]
    for dist in distributions():
        for name in names:
            for path in sorted((dist.folder / dist.package).rglob(name)):
                # of Python the checks alone: a technique may have the name of a system
                if path != recipe and (path.suffix == ".toml" or dist.name == "pcs-checks"):
                    yield path


def technique_files(id: str) -> Iterator[Path]:
    """Yield a technique's module, then the tests that name it, the one named after it first."""
    module = catalogue().where("techniques", id).partition(":")[0]
    (dist,) = (d for d in distributions() if d.package == module.partition(".")[0])
    yield dist.folder / Path(*module.split(".")).with_suffix(".py")
    namesake = f"test_{module.rpartition('.')[2]}"
    for path in sorted(
        dist.folder.glob("tests/test_*.py"), key=lambda p: (p.stem != namesake, p.stem)
    ):
        text = path.read_text("utf-8")
        if f'"{id}"' in text or f"{module} import" in text:
            yield path


def lines(path: Path) -> int:
    """Return how many lines of a file say something to the machine."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return code_lines(text)
    return sum(bool(line.strip()) and not line.startswith("#") for line in text.splitlines())


def names(files: list[Path]) -> str:
    """Return links to files of the repository."""
    return ", ".join(f"[{p.name}](../{p.relative_to(ROOT)})" for p in files)


def tuning(path: Path) -> bool:
    """Return whether a file holds what a system needs on one backbone only."""
    return "tuning" in path.parts


def _summary(what: str, groups: Iterable[Sequence[Path]], more: int = 0) -> str:
    """Return a line: the median of files and of lines; ``more`` files hold a sentence each."""
    listed = [list(files) for files in groups]
    files = round(median(len(files) for files in listed)) + more
    return row(what, files, round(median(sum(map(lines, files)) for files in listed)) + more)
