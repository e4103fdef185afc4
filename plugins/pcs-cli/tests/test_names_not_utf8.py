"""Names that are not UTF-8, as of a folder out of an old archive: refused by name before anything runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pcs_core import load, load_subject, save
from pcs_core.errors import InputError
from pcs_engine import fit, open_backbone
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

NAME = os.fsdecode(b"caf\xe9")
SHOWN = "caf\\xe9' is not UTF-8: rename it"


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "textual-inversion", "{bad}", "--backbone", "tiny", "--out", "{out}"),
        ("fit", "textual-inversion", "{good}", "--backbone", "tiny", "--out", "{bad}"),
        ("fit", "{bad}", "{good}", "--backbone", "tiny", "--out", "{out}"),
        ("fit", "textual-inversion", "{good}", "--backbone", "{bad}", "--out", "{out}"),
        ("sample", "{bad}", "a photo", "--out", "{out}"),
        ("merge", "{bad}", "{bad}", "--out", "{out}"),
        ("pretrain", "ip-adapter", "--data", "{bad}", "--out", "{out}"),
        ("export", "{bad}", "--out", "{out}"),
        ("explain", "{bad}"),
        ("show", "{bad}"),
        ("check", "{bad}"),
        ("bench", "{bad}"),
    ],
    ids=lambda words: words[0],
)
def test_an_argument(
    pcs: Callable, subject: Callable, tmp_path: Path, words: tuple[str, ...]
) -> None:
    good = subject()
    bad = shutil.copytree(good, tmp_path / NAME)
    before = sorted(tmp_path.iterdir())
    done = pcs(*(w.format(bad=bad, good=good, out=tmp_path / "out") for w in words))
    assert done.code == 2
    assert done.err.startswith("Error: the argument "), done.err
    assert SHOWN in done.err
    assert done.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_place_that_is_reached_by_another_name(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link, and the current folder: the word of the command is UTF-8, its folder's name is not."""
    rex = tmp_path / "subjects" / "rex"
    rex.rename(tmp_path / NAME)
    rex.symlink_to(tmp_path / NAME)
    done = pcs(*fit_arguments)
    assert (done.code, SHOWN in done.err) == (2, True), done.err
    rex.unlink()
    shutil.copytree(tmp_path / NAME, rex)
    monkeypatch.chdir(tmp_path / NAME)
    done = pcs(*fit_arguments[:-1], "result")
    assert done.code == 2
    assert done.err.startswith("Error: --out "), done.err
    assert "is not UTF-8" in done.err
    assert not (tmp_path / NAME / "result").exists()


@pytest.mark.parametrize("name", ["{}.png", "0.{}.txt", "masks/{}.png", ".{}"])
def test_a_file_of_a_subject(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, name: str
) -> None:
    rex = tmp_path / "subjects" / "rex"
    file = rex / name.format(NAME)
    file.parent.mkdir(exist_ok=True)
    shutil.copy(rex / "0.png", file)
    done = pcs(*fit_arguments)
    assert done.code == 2
    assert "caf\\xe9" in done.err, done.err
    assert "is not UTF-8: rename it" in done.err
    assert not (tmp_path / "out").exists()


def test_a_good_name_of_any_script(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "犬" / "café"
    assert pcs(*fit_arguments[:-1], out, "--no-preview").code == 0
    assert (out / "manifest.json").is_file()


def test_in_python(fitted: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(fitted, tmp_path / NAME)
    recipe = make_recipe([Probe()])
    with pytest.raises(InputError, match="is not UTF-8"):
        load_subject(bad, noun="dog", token="<x>")
    with pytest.raises(InputError, match="is not UTF-8"):
        open_backbone(bad)
    with pytest.raises(InputError, match="is not UTF-8"):
        save(load(fitted), tmp_path / f"{NAME}2")
    for subject in (make_subject(NAME), replace(make_subject(), files=(NAME, "b.png"))):
        with pytest.raises(InputError, match="is not UTF-8"):
            fit(recipe, subject, "tiny")
