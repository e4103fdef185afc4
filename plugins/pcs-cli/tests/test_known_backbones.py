"""An artifact from elsewhere decides neither which folder is opened here nor what is fetched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pcs_cli.main import main
from pcs_core import load, sample
from pcs_core.data import BackboneCard
from pcs_core.errors import ArtifactError
from pcs_core.storage.manifest import _bytes
from pcs_diffusers.tiny import write_tiny
from pcs_engine.known_backbones import FILE, location_of, remember
from pcs_folders.pictures import write_png
from pcs_testing import make_picture


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "model")


@pytest.fixture
def artifact(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an artifact fitted on that folder by the command, which remembers where it is."""
    monkeypatch.setenv("PCS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rex").mkdir()
    write_png(make_picture(0), tmp_path / "rex" / "a.png")
    words = ["fit", "textual-inversion", str(tmp_path / "rex"), "--noun", "dog", "--token", "<rex>"]
    words += ["--backbone", str(model), "--set", "token.steps=1", "--no-preview"]
    assert main([*words, "--out", str(tmp_path / "artifact")]) == 0
    return tmp_path / "artifact"


def draw(artifact: Path, out: Path, *more: str) -> int:
    words = ["sample", str(artifact), "a <rex>", "-n", "1", "--steps", "1", "--out", str(out)]
    return main([*words, *more])


def test_ones_own_artifact_draws_without_a_word(artifact: Path, tmp_path: Path) -> None:
    assert draw(artifact, tmp_path / "drawn") == 0


def test_the_maker_s_location_is_shown_and_not_followed(
    artifact: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The folder is there, with the right weights: it is opened only after the user names it."""
    monkeypatch.setenv("PCS_CACHE", str(tmp_path / "another-user"))
    assert draw(artifact, tmp_path / "drawn") == 2
    said = capsys.readouterr().err
    assert str(model) in said
    assert "--backbone" in said
    with pytest.raises(ArtifactError, match="not opened here before"):
        sample(load(artifact), None, "a <rex>", steps=1)
    assert draw(artifact, tmp_path / "drawn", "--backbone", str(model)) == 0
    assert draw(artifact, tmp_path / "again") == 0


def test_moved_weights_are_found_where_they_were_opened_last(
    artifact: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.move(model, tmp_path / "elsewhere"))
    assert draw(artifact, tmp_path / "drawn") == 2
    assert f"gone from {model}" in capsys.readouterr().err
    assert draw(artifact, tmp_path / "drawn", "--backbone", str(moved)) == 0
    assert draw(artifact, tmp_path / "again") == 0


@pytest.mark.parametrize("location", ["evil/repository", "/etc", "//host/share/model"])
def test_a_changed_manifest_names_nothing_that_is_opened(
    artifact: Path, tmp_path: Path, location: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = artifact / "manifest.json"
    data = json.loads(file.read_text())
    data["backbone"] |= {"id": location, "location": location, "hash": "0" * 64}
    file.write_bytes(_bytes(data))
    assert draw(artifact, tmp_path / "drawn") == 2
    assert "whose weights were not opened here before" in capsys.readouterr().err
    assert not (tmp_path / "drawn").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', "\x00"])
def test_a_damaged_note_is_no_error(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PCS_CACHE", str(tmp_path))
    (tmp_path / FILE).write_text(content)
    card = BackboneCard("x/y", "a" * 64, "sd", (8, 8), "epsilon", "x/y")
    with pytest.raises(ArtifactError, match="not opened"):
        location_of(card)
    remember(card, "x/y")
    assert location_of(card) == "x/y"
