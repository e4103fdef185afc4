"""What a process that died left beside a file or folder is removed by the next that writes there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcs_core.storage import durable
from pcs_core.storage.checkpoint import read_checkpoint, write_checkpoint

DIES = """
import os, sys
from pathlib import Path
from pcs_core.storage.durable import replacing_file, replacing_folder
with replacing_folder(Path("folder")) as folder, replacing_file(Path("file")) as file:
    (folder / "x").write_text("half")
    file.write_text("half")
    os._exit(1)
"""


def test_temporaries_of_the_dead_are_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES], cwd=tmp_path, check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with durable.replacing_file(tmp_path / "alive") as mine:
        mine.write_text("new")
        with durable.replacing_file(tmp_path / "other") as more:  # leaves that of the living
            more.write_text("new")
    assert {p.name for p in tmp_path.iterdir()} == {"alive", "other"}


def test_those_of_another_machine_are_removed_after_a_day(tmp_path: Path) -> None:
    name = f".file.pcs-00000000-{os.getpid():x}-01234567"
    (tmp_path / name).write_text("half")
    durable.remove_left(tmp_path)
    assert (tmp_path / name).exists()
    long_ago = time.time() - 2 * durable.DAY
    os.utime(tmp_path / name, (long_ago, long_ago))
    durable.remove_left(tmp_path)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_is_replaced_at_once_or_in_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        monkeypatch.setattr(durable, "exchange", lambda one, other: False)
    for text in ("old", "new"):
        with durable.replacing_folder(tmp_path / "folder") as folder:
            (folder / "x").write_text(text)
    assert (tmp_path / "folder" / "x").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_was_to_be_replaced_gets_its_name_back(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    old = f".folder.pcs-{durable._where()}-{int(dead.stdout):x}-01234567-old"
    (tmp_path / old).mkdir()
    durable.remove_left(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_exchange_says_whether_it_did(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    assert not durable.exchange(tmp_path / "one", tmp_path / "none")
    (tmp_path / "two").write_text("2")
    if durable.exchange(tmp_path / "one", tmp_path / "two"):
        assert (tmp_path / "one").read_text() == "2"


def test_state_keeps_its_order(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "x", {}, {"losses": {"b": 1, "a": 2}})
    read = read_checkpoint(tmp_path, "x")
    assert read is not None
    assert list(read[1]["losses"]) == ["b", "a"]
