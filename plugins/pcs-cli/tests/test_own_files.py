"""``--overwrite`` replaces what a command wrote, whatever its names, and keeps what is a user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_cli.own_files import RECORD, is_own, record


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with names of other tools, as a command leaves it."""
    folder = tmp_path / "out"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "lora.safetensors").write_bytes(b"numbers")
    (folder / "README.md").write_text("how to use it")
    record(folder)
    return folder


def test_an_export_over_an_export_leaves_one(pcs: Callable, fitted: Path, tmp_path: Path) -> None:
    words = ("export", fitted, "--to", "diffusers", "--out", tmp_path / "out")
    assert pcs(*words).code == 0
    first = {path.name for path in (tmp_path / "out").iterdir()}
    done = pcs(*words, "--overwrite")
    assert done.code == 0
    assert "kept" not in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == first
    (tmp_path / "out" / "letter.txt").write_text("mine")
    assert "out.old" in pcs(*words, "--overwrite").err
    assert (tmp_path / "out.old" / "letter.txt").read_text() == "mine"


def test_a_record_knows_its_files(written: Path) -> None:
    assert is_own(written)


def add(folder: Path) -> None:
    (folder / "unet" / "mine.txt").write_text("mine")


def change(folder: Path) -> None:
    (folder / "README.md").write_text("notes of mine")


def link(folder: Path) -> None:
    (folder / "unet" / "lora.safetensors").unlink()
    (folder / "unet" / "lora.safetensors").symlink_to(folder / "README.md")


def link_a_folder(folder: Path) -> None:
    (folder / "more").symlink_to(folder / "unet")


def damage(folder: Path) -> None:
    (folder / RECORD).write_text("[" * 100_000)


def list_other_types(folder: Path) -> None:
    (folder / RECORD).write_text('{"format": 1, "files": ["README.md", "unet/lora.safetensors"]}')


@pytest.mark.parametrize(
    "do", [add, change, link, link_a_folder, damage, list_other_types], ids=lambda do: do.__name__
)
def test_what_a_user_did_there_makes_it_a_users(written: Path, do: Callable) -> None:
    do(written)
    assert not is_own(written)


def test_a_numbered_picture_in_an_artifact_is_a_users(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert is_own(tmp_path)
    (tmp_path / "001.png").write_bytes(b"of the holidays")
    assert not is_own(tmp_path)
