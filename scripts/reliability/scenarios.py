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


@dataclass(frozen=True)
class Scenario:
    """A command, and what is there before it: folders by name, copied into the place of a trial."""

    name: str
    arguments: tuple[object, ...]
    before: dict[str, Path] = field(default_factory=dict)
    resumes: bool = False
    """Whether it has ``--resume``."""
    overwrites: bool = True
    """Whether it has ``--overwrite``; a command without goes on where it was."""
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


def make_inputs(folder: Path) -> list[Scenario]:
    """Write what the commands read to ``folder``, and return all scenarios."""
    from pcs_core import load_recipe
    from pcs_testing import brief_settings

    folder.mkdir(parents=True)
    recipe, layers = folder / "words.toml", folder / "layers.toml"
    recipe.write_text(WORDS, "utf-8")
    layers.write_text(
        WORDS.replace("weights.lora", "weights.kv").replace('"words"', '"layers"'), "utf-8"
    )
    rex, tom = picture_folder(folder / "rex", 1), picture_folder(folder / "tom", 2)
    on = ("--noun", "dog", "--backbone", "tiny", "--device", "cpu")
    made = {}
    for name, system, subject, token, seed in (
        ("a", recipe, rex, "<rex>", 0),
        ("b", recipe, tom, "<tom>", 1),
        ("c", layers, rex, "<rex>", 0),
        ("d", layers, tom, "<tom>", 1),
    ):
        words = ("fit", system, subject, *on, "--token", token, "--seed", seed, "--out", name)
        _must(words, folder, folder / f"made-{name}")
        made[name] = folder / name
    fit = ("fit", recipe, rex, *on, "--token", "<rex>", "--out", "out")
    both = ("fit", recipe, rex, tom, *on, "--token", "<it>", "--out", "out", "--keep-every", 2)
    draw = ("sample", made["a"], "a <rex> here", "-n", 3, "--out", "out")
    merge = ("merge", made["c"], made["d"], "--method", "average", "--out", "out")
    export = ("export", made["a"], "--to", "diffusers", "--out", "out")
    pictures = picture_folder(folder / "records", 3, 4, captions=True)
    few = tuple(
        word for setting in brief_settings(load_recipe("ip-adapter")) for word in ("--set", setting)
    )
    train = ("pretrain", "ip-adapter", "--data", pictures, "--backbone", "tiny", "--device", "cpu")
    train = (*train, *few, "--out", "out")
    suite = folder / "suite"
    picture_folder(suite / "rex", 1)
    _must(("bench", "new", suite, "--noun", "dog"), folder, folder / "made-suite")
    bench = ("bench", "run", suite / "suite.toml", "--systems", "lora-dreambooth", "--metrics", "")
    bench = (*bench, "--backbone", "tiny", "--device", "cpu", "--engine", "inline", "--seeds", 2)
    bench = (*bench, "--prompts", 2, "--set", "lora-dreambooth:tune.steps=3")
    bench = (*bench, "--set", "sample.steps=2", "--out", "out")
    old = {"out": made["b"]}
    drawn = folder / "drawn"
    _must(("sample", made["b"], "a <tom>", "-n", 2, "--out", drawn), folder, folder / "made-drawn")
    several = folder / "several"
    _must((*both[:-4], "--seed", 5, "--out", several), folder, folder / "made-several")
    return [
        Scenario("fit", fit, resumes=True),
        Scenario("fit over old", (*fit, "--overwrite"), old, resumes=True),
        Scenario("fit of several", both, resumes=True),
        Scenario("fit of several over old", (*both, "--overwrite"), {"out": several}, resumes=True),
        Scenario("fit in new parents", (*fit[:-1], "deep/er/out"), resumes=True, out="deep/er/out"),
        Scenario("sample", draw),
        Scenario("sample over old", (*draw, "--overwrite"), {"out": drawn}),
        Scenario("merge", merge),
        Scenario("merge over old", (*merge, "--overwrite"), old),
        Scenario("export", export),
        Scenario("export over old", (*export, "--overwrite"), old),
        Scenario("pretrain", train, resumes=True),
        Scenario("pretrain over old", (*train, "--overwrite"), old, resumes=True),
        Scenario("bench run", bench, overwrites=False),
    ]


def _must(words: tuple[object, ...], place: Path, notes: Path) -> None:
    ended = run(words, place, notes)
    if ended.code:
        raise RuntimeError(f"pcs {' '.join(map(str, words))}: {ended.code}\n{ended.err}")
