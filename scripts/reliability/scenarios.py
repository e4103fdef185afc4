"""What is killed: commands with the state of the disk that they begin with."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from reliability.commands import Program, run

WORDS = """
[recipe]
id = "words"

[[use]]
technique = "tokens.learnable"

[[use]]
technique = "weights.lora"

[[phase]]
name = "words"
steps = 2
lr = 5e-3
train = ["tokens.learnable/*"]

[[phase]]
name = "joint"
steps = 3
lr = 1e-3

[sample]
steps = 2
scale = 2.0
"""


ON = ("--noun", "dog", "--backbone", "tiny", "--device", "cpu")
Words = tuple[object, ...]


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
    keeps: bool = False
    """Whether what it overwrites of its own is kept as ``out.old``: its files are not known for a command's."""
    out: str = "out"
    program: Program | None = None
    """What is run in place of ``pcs``."""

    def set_up(self, place: Path) -> None:
        """Make the folder of a trial anew, as it is before the command."""
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for name, source in self.before.items():
            shutil.copytree(source, place / name)


def picture_folder(folder: Path, seed: int, count: int = 2, *, captions: bool = False) -> Path:
    """Write pictures of noise."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels, "RGB").save(folder / f"{index}.png")
        if captions:
            (folder / f"{index}.txt").write_text("a dog", "utf-8")
    return folder


@dataclass(frozen=True)
class Inputs:
    """What the commands read, in ``folder``."""

    folder: Path

    def make(self) -> None:
        """Write it."""
        self.folder.mkdir(parents=True)
        kv = WORDS.replace("weights.lora", "weights.kv").replace('"words"', '"layers"')
        (self.folder / "words.toml").write_text(WORDS, "utf-8")
        (self.folder / "layers.toml").write_text(kv, "utf-8")
        for seed, name in enumerate(("rex", "tom", "suite/rex")):
            picture_folder(self.folder / name, seed)
        picture_folder(self.folder / "records", 3, 4, captions=True)
        for out, recipe, subject in (("a", "words", "rex"), ("b", "words", "tom")):
            self.fitted(out, recipe, subject)
        for out, recipe, subject in (("c", "layers", "rex"), ("d", "layers", "tom")):
            self.fitted(out, recipe, subject)
        self.must("sample", self.folder / "b", "a <tom>", "-n", 2, "--out", self.folder / "drawn")
        self.must(*self.several_words()[:-1], self.folder / "several", "--seed", 5)
        self.must("bench", "new", self.folder / "suite", "--noun", "dog")

    def fitted(self, out: str, recipe: str, subject: str) -> None:
        """Fit a subject."""
        self.must(*self.fit_words(recipe, subject)[:-1], self.folder / out)

    def fit_words(self, recipe: str = "words.toml", subject: str = "rex") -> Words:
        """Return the command of a fit."""
        recipe = recipe.removesuffix(".toml")
        words = ("fit", self.folder / f"{recipe}.toml", self.folder / subject, *ON)
        return (*words, "--token", f"<{subject}>", "--out", "out")

    def several_words(self) -> Words:
        """Return the command of a fit of two subjects."""
        read = (self.folder / name for name in ("words.toml", "rex", "tom"))
        return ("fit", *read, *ON, "--token", "<it>", "--keep-every", 2, "--out", "out")

    def must(self, *words: object) -> None:
        """Run a command that works."""
        ended = run(words, self.folder, self.folder / "notes")
        if ended.code:
            raise RuntimeError(f"pcs {' '.join(map(str, words))}: {ended.code}\n{ended.err}")


def all_scenarios(inputs: Inputs) -> list[Scenario]:
    """Return every command that is killed."""
    return [*fits(inputs), *drawings(inputs), *writings(inputs), *trainings(inputs)]


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
    """Return merges and exports."""
    merge = (
        "merge",
        inputs.folder / "c",
        inputs.folder / "d",
        "--method",
        "average",
        "--out",
        "out",
    )
    export = ("export", inputs.folder / "a", "--to", "diffusers", "--out", "out")
    old = {"out": inputs.folder / "b"}
    return [
        Scenario("merge", merge),
        Scenario("merge over old", (*merge, "--overwrite"), old),
        Scenario("export", export),
        Scenario("export over old", (*export, "--overwrite"), old, keeps=True),
    ]


def trainings(inputs: Inputs) -> list[Scenario]:
    """Return pre-trainings, and a benchmark."""
    from pcs_core import load_recipe
    from pcs_testing import brief_settings

    brief = brief_settings(load_recipe("ip-adapter"))
    train = ("pretrain", "ip-adapter", "--data", inputs.folder / "records", *ON[2:])
    train = (*train, *(word for setting in brief for word in ("--set", setting)), "--out", "out")
    bench = (
        "bench",
        "run",
        inputs.folder / "suite" / "suite.toml",
        "--systems",
        "lora-dreambooth",
        *ON[2:],
    )
    bench = (*bench, "--metrics", "", "--engine", "inline", "--seeds", 2, "--prompts", 2)
    bench = (*bench, "--set", "lora-dreambooth:tune.steps=3", "--set", "sample.steps=2")
    return [
        Scenario("pretrain", train, resumes=True),
        Scenario(
            "pretrain over old", (*train, "--overwrite"), {"out": inputs.folder / "b"}, resumes=True
        ),
        Scenario("bench run", (*bench, "--out", "out"), overwrites=False),
    ]
