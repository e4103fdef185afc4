"""What is killed: commands with the state of the disk that they begin with."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from pcs_core import load_recipe
from pcs_testing import brief_settings
from reliability.commands import Program
from reliability.inputs import ON, Inputs, Words


@dataclass(frozen=True)
class Scenario:
    """A command, and what is there before it: folders by name, copied into the place of a trial."""

    name: str
    arguments: Words
    before: dict[str, Path] = field(default_factory=dict)
    resumes: bool = False
    """Whether it has ``--resume``."""
    overwrites: bool = True
    """Whether it has ``--overwrite``; a command without goes on where it was."""
    partly: bool = False
    """Whether ``out`` is a folder of results that appear one by one."""
    loose: bool = False
    """Whether its files hold times: only pictures and weights are compared by their bytes."""
    close: bool = False
    """Whether its weights are compared as numbers: with what a fit shares a forward changes its last bits."""
    out: str = "out"
    program: Program | None = None
    """What is run in place of ``pcs``."""

    def set_up(self, place: Path) -> None:
        """Make the folder of a trial anew, as it is before the command."""
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for name, source in self.before.items():
            shutil.copytree(source, place / name)


def all_scenarios(inputs: Inputs) -> list[Scenario]:
    """Return every command that is killed."""
    kinds = (fits, drawings, writings, trainings, many, benchmarks, readings)
    return [scenario for kind in kinds for scenario in kind(inputs)]


def fits(inputs: Inputs) -> list[Scenario]:
    """Return fits of one subject and of several, over nothing and over something."""
    one, both = inputs.fit_words(), inputs.several_words()
    old, several = {"out": inputs.folder / "b"}, {"out": inputs.folder / "several"}
    return [
        Scenario("fit", one, resumes=True),
        Scenario("fit over old", (*one, "--overwrite"), old, resumes=True),
        Scenario("fit of several", both, resumes=True),
        Scenario("fit of several over old", (*both, "--overwrite"), several, resumes=True),
        Scenario("fit in new parents", (*one[:-1], "deep/er/out"), resumes=True, out="deep/er/out"),
    ]


def drawings(inputs: Inputs) -> list[Scenario]:
    """Return drawings."""
    words = ("sample", inputs.folder / "a", "a <rex> here", "-n", 3, "--out", "out")
    return [
        Scenario("sample", words),
        Scenario("sample over old", (*words, "--overwrite"), {"out": inputs.folder / "drawn"}),
    ]


def writings(inputs: Inputs) -> list[Scenario]:
    """Return merges, exports, imports and protections."""
    merge = ("merge", inputs.folder / "c", inputs.folder / "d")
    merge = (*merge, "--method", "average", "--out", "out")
    export, protect = inputs.export_words(), inputs.protect_words()
    imported = ("import", inputs.exported(), "--backbone", "tiny", "--out", "out")
    old = {"out": inputs.folder / "b"}
    exported = {"out": inputs.folder / "exported"}
    return [
        Scenario("merge", merge),
        Scenario("merge over old", (*merge, "--overwrite"), old),
        Scenario("export", export),
        Scenario("export over old", (*export, "--overwrite"), old),
        Scenario("export over export", (*export, "--overwrite"), exported),
        Scenario("import", imported),
        Scenario("import over export", (*imported, "--overwrite"), exported),
        Scenario("protect", protect),
        Scenario(
            "protect over old", (*protect, "--overwrite"), {"out": inputs.folder / "protected"}
        ),
    ]


def trainings(inputs: Inputs) -> list[Scenario]:
    """Return pre-trainings."""
    brief = brief_settings(load_recipe("ip-adapter"))
    train = ("pretrain", "ip-adapter", "--data", inputs.folder / "records", *ON[2:])
    train = (*train, *(word for setting in brief for word in ("--set", setting)), "--out", "out")
    old = {"out": inputs.folder / "b"}
    return [
        Scenario("pretrain", train, resumes=True),
        Scenario("pretrain over old", (*train, "--overwrite"), old, resumes=True),
    ]


def many(inputs: Inputs) -> list[Scenario]:
    """Return commands with many results."""
    fits = ("fit-many", inputs.folder / "queue.jsonl", *ON[2:], "--out", "out")
    drawn = ("sample-many", inputs.folder / "a", inputs.folder / "b", "--steps", 2)
    drawn = (*drawn, "--prompts", inputs.folder / "prompts.txt", "--out", "out")
    return [
        Scenario("fit-many", fits, resumes=True, overwrites=False, loose=True, close=True),
        Scenario("sample-many", drawn, partly=True),
    ]


def benchmarks(inputs: Inputs) -> list[Scenario]:
    """Return benchmarks and a comparison, also with a process for each job."""
    brief = ("--seeds", 2, "--set", "lora-dreambooth:tune.steps=3", "--set", "sample.steps=2")
    brief = ("--systems", "lora-dreambooth", *ON[2:], "--metrics", "", *brief, "--out", "out")
    bench = ("bench", "run", inputs.folder / "suite" / "suite.toml", "--prompts", 2)
    compare = ("compare", inputs.folder / "rex", "--prompt", "a {token}", "--token", "<rex>")
    compare = (*compare, *ON[:2], *brief)
    options = {"overwrites": False, "loose": True}
    return [
        Scenario("bench run", (*bench, "--engine", "inline", *brief), **options),
        Scenario("bench run with workers", (*bench, "--workers", 2, *brief), **options),
        Scenario("compare", (*compare, "--workers", 1), **options),
    ]


def readings(inputs: Inputs) -> list[Scenario]:
    """Return commands that write nothing."""
    inspect = ("inspect", inputs.exported(), "--backbone", "tiny")
    return [Scenario("inspect", inspect, overwrites=False)]
