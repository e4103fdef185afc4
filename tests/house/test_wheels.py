"""Wheels work without the checkout: nothing is left out, and in an empty venv each plugin loads and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from hatchling.builders.wheel import WheelBuilder

from pcs_core import write_png

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [
    ROOT,
    *(p.parent for p in sorted(ROOT.glob("plugins/*/pyproject.toml"))),
    *(p.parent for p in sorted(ROOT.glob("optimizers/*/pyproject.toml"))),
]

LOADS = """
import importlib, json, sys
from importlib.metadata import distributions
import pcs_core
from pcs_core.catalogue import NOUNS, catalogue

packages = json.loads(sys.argv[1])
held = catalogue()
failed = {}
for noun in NOUNS:
    for id in held.ids(noun):
        try:
            held.get(noun, id)
        except Exception as error:
            failed[f"{noun} {id}"] = repr(error)
print(json.dumps({
    "broken": [b.error for b in held.broken] + held.conflicts,
    "failed": failed,
    "plugins": sorted({p.distribution for p in held.plugins()}),
    "recipes": len(held.recipe_files()),
    "files": [importlib.import_module(p).__file__ for p in packages],
    "path": sys.path,
}))
"""


def packages_of(folder: Path) -> list[str]:
    """Return the packages of a distribution, none where it is a list of others."""
    names = ["pcs_core", "pcs_engine"] if folder == ROOT else [folder.name.replace("-", "_")]
    return [name for name in names if (folder / name).is_dir()]


@pytest.mark.parametrize("folder", [f for f in FOLDERS if packages_of(f)], ids=lambda f: f.name)
def test_every_tracked_file_is_in_the_wheel(folder: Path) -> None:
    """What git has in the package is what is installed: hatchling leaves out what .gitignore names."""
    packages = packages_of(folder)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", *packages],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("no git here to ask for the files")
    names = listed.stdout.decode().split("\0")
    tracked = {name for name in names if name and (folder / name).is_file()}
    builder = WheelBuilder(str(folder))
    wheel = {file.distribution_path for file in builder.recurse_included_files()}
    assert tracked <= wheel, f"not in the wheel: {sorted(tracked - wheel)}"
    assert not [name for name in wheel if "__pycache__" in name]
    assert {name.split("/")[0] for name in wheel} == set(packages)


def run(*command: object, cwd: Path, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, (done.stdout[-1500:], done.stderr[-3000:])
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Build every wheel of the checkout, without network."""
    out = tmp_path_factory.mktemp("wheels")
    for folder in FOLDERS:
        list(WheelBuilder(str(folder)).build(directory=str(out)))
    return sorted(out.glob("*.whl"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, wheels: list[Path]) -> Path:
    """Return an empty venv into which the wheels are installed, and nothing is editable.

    Third parties are seen through a path entry. Entries of a .pth file are not searched for further
    .pth files, so the editable installs of this environment stay out of sight.
    """
    home = tmp_path_factory.mktemp("home") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    site = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home
    ).strip()
    # pip of this environment installs into the other one; a wheel needs nothing built
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", *wheels, cwd=home)
    outer = [p for p in sys.path if p.endswith("site-packages")]
    (Path(site) / "third-party.pth").write_text("".join(f"{p}\n" for p in outer), "utf-8")
    return home


def test_licences_and_types_are_in_them(wheels: list[Path]) -> None:
    assert len(wheels) == len(FOLDERS)
    for wheel in wheels:
        names = zipfile.ZipFile(wheel).namelist()
        assert any(name.endswith("licenses/LICENSE") for name in names)
    (core,) = [zipfile.ZipFile(w).namelist() for w in wheels if w.name.startswith("pcs_core-")]
    assert {"pcs_core/py.typed", "pcs_core/__init__.pyi", "pcs_engine/py.typed"} <= set(core)
    assert any(name.endswith("licenses/NOTICE") for name in core)


@pytest.mark.rotated
def test_every_plugin_loads_from_its_wheel(home: Path, tmp_path: Path) -> None:
    packages = [package for folder in FOLDERS for package in packages_of(folder)]
    python = home / "bin" / "python"
    report = json.loads(run(python, "-I", "-c", LOADS, json.dumps(packages), cwd=tmp_path))
    assert all(Path(file).resolve().is_relative_to(home.resolve()) for file in report["files"])
    assert not [p for p in report["path"] if Path(p).resolve().is_relative_to(ROOT / "plugins")]
    assert str(ROOT) not in report["path"]
    assert not report["broken"]
    assert not report["failed"]
    assert report["recipes"] >= 20
    assert {"pcs-tokens", "pcs-weights", "pcs-mini", "pcs-formats"} <= set(report["plugins"])


@pytest.mark.slow
def test_the_command_works_from_wheels(home: Path, tmp_path: Path) -> None:
    """Doctor, listings, a brief fit, a picture, and a cell of the benchmark on Mini."""
    pcs = home / "bin" / "pcs"
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}

    def command(*words: str) -> str:
        return run(pcs, *words, cwd=tmp_path, **offline)

    assert "personalise" in command("--help").lower()
    assert "nothing is broken" in command("doctor")
    assert "dreambooth" in command("systems")
    (tmp_path / "rex").mkdir()
    write_png(torch.rand(3, 64, 64), tmp_path / "rex" / "a.png")
    fit = ["fit", "textual-inversion", "rex", "--noun", "dog", "--token", "<rex>", "--out", "out"]
    command(*fit, "--backbone", "mini", "--set", "token.steps=2", "--no-preview")
    draw = ["sample", "out", "a <rex>", "--backbone", "mini", "-n", "1", "--steps", "2"]
    command(*draw, "--out", "pictures")
    assert (tmp_path / "pictures" / "000.png").is_file()
    bench = ["bench", "run", "mini-object", "--systems", "textual-inversion", "--limit", "1"]
    bench += ["--prompts", "1", "--seeds", "1", "--set", "token.steps=2", "--workers", "1"]
    bench += ["--metrics", "mini.clip-t"]
    command(*bench, "--out", "bench")
    assert (tmp_path / "bench" / "cells.jsonl").read_text("utf-8").count('"done"') >= 1
