"""docs/core.md: the core by topic, with how many lines each is, what it is for and why it is the core's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from count_lines import count

from pages.tree import ROOT, row

AIM = 7000
"""Lines of code that the core should not have more of."""


@dataclass(frozen=True)
class Topic:
    """Files of the core that are read together, as patterns below ``pcs_core``, and why they are the core's."""

    title: str
    why: str
    files: tuple[str, ...]


FIRST = (
    Topic(
        "What an author meets",
        "A technique is written against these: the class, the five hooks, the types they take and give, how "
        "answers merge, and the errors.",
        (
            "technique.py",
            "hookspecs.py",
            "merge.py",
            "errors.py",
            "__init__.py",
            "facade.py",
            "data/*",
        ),
    ),
    Topic(
        "Edits",
        "Each kind says how it is bound, what it claims and what is computed anew. Two plugins can meet at one "
        "site only because neither of them binds.",
        ("edits/*",),
    ),
    Topic(
        "Network",
        "The seam to a backbone: sites, chains, attaching and exact detaching, placeholders in prompts.",
        ("backbone/*",),
    ),
    Topic(
        "Fit",
        "The loop, its rows and its steps: what every technique would otherwise write again.",
        tuple(
            f"engine/{name}.py"
            for name in (
                "__init__ averages batches beside builtin captions clipping fit fit_rows hook_results live "
                "optimizers phase_loop pools precision prepare progress randomness rates registered run "
                "services steps stops"
            ).split()
        ),
    ),
    Topic(
        "Drawing",
        "The other loop: guidance as a sum of terms, strengths, sizes, and what techniques ask of a drawing.",
        tuple(
            f"engine/{name}.py"
            for name in (
                "sample guidance inversion regions texts personalized strengths drawn_size"
            ).split()
        ),
    ),
)
PROMISES = (
    Topic(
        "Recipes",
        "A stored artifact is read through the code that reads a recipe. Half of it is that messages name file "
        "and line through `extends`, overlays, profiles and `--set`, for `tomllib` tells no lines.",
        ("assembly/*",),
    ),
    Topic(
        "Plugins",
        "Ids without imports; a plugin that fails, hangs or ends the process becomes a line of `pcs doctor`.",
        ("catalogue/*",),
    ),
    Topic(
        "Files",
        "Artifacts and checkpoints that are whole or absent, and files of others read within bounds before a "
        "library or the memory meets them.",
        ("storage/*", "small_files.py", "tensor_headers.py", "caches.py"),
    ),
    Topic(
        "Going on",
        "An interrupted fit ends in the same bits; a finished one goes on; pre-trained weights are found.",
        tuple(f"engine/{name}.py" for name in "checkpoints continuing restoring adapters".split()),
    ),
    Topic(
        "Further models",
        "A teacher is asked on the network that trains, whose edits make room: only what attaches can do that.",
        ("engine/further.py",),
    ),
    Topic(
        "Devices and their memory",
        "Shares of one step, with the gradient of one process: only the loop knows which rows a mean is of. "
        "How threads wait, and when what a training held is given back.",
        ("engine/processes.py", "engine/freeing.py", "threads.py"),
    ),
    Topic(
        "What users bring",
        "Pictures, masks, boxes, numbers and names are checked, cropped and scaled before the loop, for the "
        "command and for callers in Python alike; what nothing reads is said.",
        ("engine/*", "arguments.py"),
    ),
)


def assigned(lines: Mapping[Path, int], topics: Sequence[Topic]) -> dict[str, list[Path]]:
    """Return the files of each topic, each in the first that names it.

    Raises
    ------
    SystemExit
        A file is in none.
    """
    groups: dict[str, list[Path]] = {topic.title: [] for topic in topics}
    for path in lines:
        place = path.relative_to(ROOT / "pcs_core")
        for topic in topics:
            if any(place.match(pattern) and _level(place, pattern) for pattern in topic.files):
                groups[topic.title].append(path)
                break
        else:
            raise SystemExit(f"{place} of the core is in no topic of scripts/pages/core.py")
    return groups


def core_page() -> str:
    """Return docs/core.md."""
    lines = count(ROOT / "pcs_core")
    groups = assigned(lines, (*FIRST, *PROMISES))
    sizes = {title: sum(lines[path] for path in paths) for title, paths in groups.items()}
    first = sum(sizes[topic.title] for topic in FIRST)
    total = sum(sizes.values())
    text = f"""# The core, topic by topic

The numbers are generated: lines that hold code, without blanks, comments and docstrings, to the nearest ten.

`pcs_core` has {_tens(total)} lines. The aim is {AIM:,}, it is not met, and the number has grown with
every seam that only the loop can offer. {_tens(total - first)} of them are promises that every technique
gets without code of its own: whoever writes a technique, or wants to know how a fit works, need not read
them. What left, what was looked at and stayed, and which cut comes next is in
[decision 33](decisions/0033-what-is-the-cores.md).

## To read first

{_tens(first)} lines, from the top, are an afternoon's: how a technique, an edit, a fit and a drawing work.

"""
    text += _table(FIRST, groups, sizes)
    text += "\n## Promises\n\nTo look up when one of them is the question.\n\n"
    return text + _table(PROMISES, groups, sizes)


def _table(
    topics: Sequence[Topic], groups: Mapping[str, Sequence[Path]], sizes: Mapping[str, int]
) -> str:
    text = "| topic | lines | files | why it is the core's |\n|---|---|---|---|\n"
    for topic in topics:
        names = [_name(path) for path in groups[topic.title]]
        text += row(topic.title, _tens(sizes[topic.title]), ", ".join(names), topic.why)
    return text


def _name(path: Path) -> str:
    place = path.relative_to(ROOT / "pcs_core")
    name = place.as_posix().removesuffix(".py") if path.stem != "__init__" else f"{place.parent}/"
    return f"[{name.removeprefix('./') or 'pcs_core'}](../{path.relative_to(ROOT).as_posix()})"


def _tens(number: int) -> str:
    return f"{round(number, -1):,}"


def _level(place: Path, pattern: str) -> bool:
    """Return whether a pattern is of the level of a place: one without a folder means the top."""
    return len(place.parts) == pattern.count("/") + 1
