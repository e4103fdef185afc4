"""What pcs-mini ships is compared with its hashes when it is opened."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pcs_core import open_backbone
from pcs_core.errors import InputError
from pcs_mini import digest
from pcs_mini.plugin import folder
from pcs_mini.world.assets import SLICE_FILE, SUMS, Assets, installed_archive


def test_the_shipped_weights_are_the_listed_ones() -> None:
    """Where this fails after a training, run `python scripts/shipped_sums.py`."""
    digest.check_shipped(folder())
    for name in ("clip", "identity", "judge", "views"):
        digest.check_shipped(digest.SUMS.parent / "metrics" / "weights" / name)


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_another_file_is_refused(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "pcs_mini"
    shutil.copytree(folder(), copy / "weights")
    shutil.copy(digest.SUMS, copy)
    file = copy / "weights" / "vae" / "config.json"
    if damage == "change":
        file.write_text(file.read_text() + " ")
    else:
        file.unlink()
    monkeypatch.setattr(digest, "SUMS", copy / digest.SUMS.name)
    monkeypatch.setattr("pcs_mini.plugin._HERE", copy)
    with pytest.raises(InputError, match="vae/config.json is"):
        open_backbone("mini")


@pytest.mark.parametrize("archive", [SLICE_FILE, installed_archive()], ids=["slice", "world"])
def test_the_shipped_archives_are_the_listed_ones(archive: Path) -> None:
    assert archive.with_name(SUMS).read_text().endswith(f"  {archive.name}\n")
    Assets(archive)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    for file in (SLICE_FILE, SLICE_FILE.with_name(SUMS)):
        shutil.copy(file, tmp_path)
    copy = tmp_path / SLICE_FILE.name
    Assets(copy)
    copy.write_bytes(copy.read_bytes() + b" ")
    with pytest.raises(InputError, match="not the file that was shipped"):
        Assets(copy)
