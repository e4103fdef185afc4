"""A command line that runs in this process, subjects made of noise, and one small fit."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcs_testing import recipe_text

RECIPE = recipe_text("words", "tokens.learnable", phases=(("words", 6, 5e-3),))
LAYERS = recipe_text(
    *("layers", "tokens.learnable", "weights.lora"),
    phases=(("words", 3, 5e-3), ("joint", 5, 1e-3)),
)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pcs(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``pcs`` with arguments; its exit code, stdout and stderr."""
    from pcs_cli.main import main

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(code, captured.out, captured.err)

    return run


def make_subject(folder: Path, count: int = 2, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels, "RGB").save(folder / f"{index}.png")
    return folder


@pytest.fixture
def subject(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of pictures."""

    def make(name: str = "rex", **options: int) -> Path:
        return make_subject(tmp_path / "subjects" / name, **options)

    return make


def write_recipe(folder: Path, text: str, name: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that trains a token."""
    return write_recipe(tmp_path, RECIPE, "words.toml")


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """A recipe of two phases that trains a token and layers."""
    return write_recipe(tmp_path, LAYERS, "layers.toml")


@pytest.fixture
def fit_arguments(recipe: Path, subject: Callable[..., Path], tmp_path: Path) -> list[object]:
    """A fit that works, but for what a test appends."""
    return [
        *("fit", recipe, subject(), "--noun", "dog", "--token", "<rex>", "--backbone", "tiny"),
        *("--device", "cpu", "--out", tmp_path / "out" / "rex"),
    ]


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact made once. Not to be changed: see ``artifact``."""
    from pcs_cli.main import main

    folder = tmp_path_factory.mktemp("fitted")
    file = write_recipe(folder, RECIPE, "words.toml")
    images = make_subject(folder / "rex")
    words = ["--noun", "dog", "--token", "<rex>", "--backbone", "tiny", "--device", "cpu"]
    code = main(["fit", str(file), str(images), *words, "--out", str(folder / "artifact")])
    assert code == 0
    return folder / "artifact"


@pytest.fixture
def artifact(fitted: Path, tmp_path: Path) -> Path:
    """A copy of an artifact, to be spoiled."""
    import shutil

    return Path(shutil.copytree(fitted, tmp_path / "artifact"))


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Put a plugin with these nouns beside the installed ones; its module lies in ``tmp_path``."""
    import pcs_core.catalogue as package
    from pcs_core.catalogue import BrokenPlugin, Catalogue, FoundPlugin
    from pcs_core.catalogue.discovery import find_plugins
    from pcs_core.catalogue.holdings import Holdings, read_holdings

    monkeypatch.syspath_prepend(str(tmp_path))

    def plug(nouns: dict[str, dict[str, str]], *, broken: str = "") -> None:
        plugin = FoundPlugin("extra", "pcs-extra", "9", "extra", types.ModuleType("extra"))
        installed, lost = read_holdings(find_plugins(None)[0])
        lost = [*lost, *([BrokenPlugin("extra", "pcs-extra", broken)] if broken else [])]
        known = Catalogue([*installed, Holdings(plugin, nouns)], lost)
        monkeypatch.setattr(package, "catalogue", lambda: known)

    return plug
