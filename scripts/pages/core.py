"""docs/core.md: the core and the engine by topic, with the lines of each part and why it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from count_lines import count

from pages.tree import ROOT, row

AIM = 7000
"""Lines of code that `pcs_core` has less than."""


@dataclass(frozen=True)
class Topic:
    """Files that are read together, as patterns below their package, and why they are there."""

    title: str
    why: str
    files: tuple[str, ...]


def _files(names: str) -> tuple[str, ...]:
    return tuple(f"{name}.py" for name in names.split())


CORE = (
    Topic(
        "What an author meets",
        "A technique is written against these: the class, the five hooks, the types they take and give, how "
        "answers merge, and the errors.",
        (*_files("technique hookspecs merge errors __init__ facade"), "data/*"),
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
        ("storage/*", *_files("small_files tensor_headers caches")),
    ),
    Topic(
        "Arguments and threads",
        "What a caller in Python gives is checked by the same words everywhere; how threads wait is set before "
        "torch is loaded.",
        _files("arguments threads"),
    ),
)
ENGINE = (
    Topic(
        "Fit",
        "The loop, its rows and its steps: what every technique would otherwise write again.",
        _files(
            "__init__ averages batches beside builtin captions clipping fit fit_rows hook_results live "
            "optimizers phase_loop pools precision prepare progress randomness rates registered run "
            "services steps stops"
        ),
    ),
    Topic(
        "Drawing",
        "The other loop: guidance as a sum of terms, strengths, sizes, and what techniques ask of a drawing.",
        _files("sample guidance inversion regions texts personalized strengths drawn_size"),
    ),
    Topic(
        "Going on",
        "An interrupted fit ends in the same bits; a finished one goes on; pre-trained weights are found.",
        _files("checkpoints continuing restoring adapters"),
    ),
    Topic(
        "Further models",
        "A teacher is asked on the network that trains, whose edits make room: only what attaches can do that.",
        _files("further"),
    ),
    Topic(
        "Devices and their memory",
        "Shares of one step, with the gradient of one process: only the loop knows which rows a mean is of. "
        "When what a training held is given back.",
        _files("processes freeing"),
    ),
    Topic(
        "What users bring",
        "Pictures, masks, boxes, numbers and names are checked, cropped and scaled before the loop, for the "
        "command and for callers in Python alike; what nothing reads is said.",
        ("*",),
    ),
)
PACKAGES = {"pcs_core": CORE, "pcs_engine": ENGINE}


def assigned(package: str, lines: Mapping[Path, int]) -> dict[str, list[Path]]:
    """Return the files of each topic of a package, each in the first that names it.

    Raises
    ------
    SystemExit
        A file is in none.
    """
    topics = PACKAGES[package]
    groups: dict[str, list[Path]] = {topic.title: [] for topic in topics}
    for path in lines:
        place = path.relative_to(ROOT / package)
        for topic in topics:
            if any(place.match(pattern) and _level(place, pattern) for pattern in topic.files):
                groups[topic.title].append(path)
                break
        else:
            raise SystemExit(f"{place} of {package} is in no topic of scripts/pages/core.py")
    return groups


def core_page() -> str:
    """Return docs/core.md."""
    core, engine = (count(ROOT / package) for package in PACKAGES)
    small, large = (_tens(sum(lines.values())) for lines in (core, engine))
    return f"""# The core and the engine, topic by topic

The numbers are generated: lines that hold code, without blanks, comments and docstrings, to the nearest ten.

The distribution `pcs-core` has two packages. `pcs_core`, {small} lines of the {AIM:,} that it may have, is
what plugins and backbones are written against. `pcs_engine`, {large} lines, holds the two loops, `fit` and
`sample`, and imports the core; never the other way round. Whoever writes a technique need not read it.
Why they are two: [decision 43](decisions/0043-the-engine-stands-above-the-core.md); what left the core before:
[decision 33](decisions/0033-what-is-the-cores.md).

## The core

{_table("pcs_core", core)}
## The engine

{_table("pcs_engine", engine)}"""


def _table(package: str, lines: Mapping[Path, int]) -> str:
    groups = assigned(package, lines)
    text = "| topic | lines | files | why it is here |\n|---|---|---|---|\n"
    for topic in PACKAGES[package]:
        paths = groups[topic.title]
        names = [_name(package, path) for path in paths]
        text += row(topic.title, _tens(sum(lines[p] for p in paths)), ", ".join(names), topic.why)
    return text


def _name(package: str, path: Path) -> str:
    place = path.relative_to(ROOT / package)
    name = place.as_posix().removesuffix(".py") if path.stem != "__init__" else f"{place.parent}/"
    return f"[{name.removeprefix('./') or package}](../{path.relative_to(ROOT).as_posix()})"


def _tens(number: int) -> str:
    return f"{round(number, -1):,}"


def _level(place: Path, pattern: str) -> bool:
    """Return whether a pattern is of the level of a place: one without a folder means the top."""
    return len(place.parts) == pattern.count("/") + 1
