"""What the commands that are killed read: pictures of noise, recipes, artifacts, a queue."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pcs_testing import brief_settings, recipe_text
from reliability.commands import run

PHASES = (("words", 2, 5e-3), ("joint", 3, 1e-3))
ON = ("--noun", "dog", "--backbone", "tiny", "--device", "cpu")
Words = tuple[object, ...]


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
        for name, technique in (("words", "weights.lora"), ("layers", "weights.kv")):
            text = recipe_text(name, "tokens.learnable", technique, phases=PHASES, drawn=2)
            (self.folder / f"{name}.toml").write_text(text, "utf-8")
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
        self.must(*self.export_words()[:-1], self.folder / "exported")
        self.must(*self.protect_words()[:-1], self.folder / "protected")
        (self.folder / "prompts.txt").write_text("a {token}\na {token} here\n", "utf-8")
        line = {"system": str(self.folder / "words.toml"), "noun": "dog"}
        rows = [json.dumps({**line, "folder": n, "token": f"<{n}>"}) for n in ("rex", "tom")]
        (self.folder / "queue.jsonl").write_text("\n".join(rows), "utf-8")

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

    def export_words(self) -> Words:
        """Return the command of an export."""
        return ("export", self.folder / "a", "--to", "diffusers", "--out", "out")

    def exported(self) -> Path:
        """Return the weights that an export wrote."""
        return next((self.folder / "exported").glob("*.safetensors"))

    def protect_words(self) -> Words:
        """Return the command of a protection."""
        from pcs_core import load_recipe

        brief = brief_settings(load_recipe("anti-dreambooth"))
        words = ("protect", self.folder / "rex", *ON[2:])
        return (*words, *(word for setting in brief for word in ("--set", setting)), "--out", "out")

    def must(self, *words: object) -> None:
        """Run a command that works."""
        ended = run(words, self.folder, self.folder / "notes")
        if ended.code:
            raise RuntimeError(f"pcs {' '.join(map(str, words))}: {ended.code}\n{ended.err}")
