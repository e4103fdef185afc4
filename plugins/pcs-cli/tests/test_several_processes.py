"""`pcs fit` in several processes: one of them writes and speaks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pcs_cli import fit_work, opening
from pcs_core import load, load_recipe
from pcs_core.errors import InputError
from pcs_engine.processes import Processes
from pcs_folders.pictures import write_png
from pcs_testing import brief_settings, make_picture

NAMED = ["--noun", "dog", "--token", "<dog>", "--backbone", "tiny", "--no-preview"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for i in range(2):
        write_png(make_picture(i), tmp_path / "pictures" / f"{i}.png")
    return tmp_path


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    torchrun, pcs = shutil.which("torchrun"), shutil.which("pcs")
    assert torchrun is not None
    assert pcs is not None
    start = [torchrun, "--standalone", "--nproc-per-node", "2", "--no-python", pcs]
    return subprocess.run(
        [*start, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_one_artifact_and_one_voice(folder: Path) -> None:
    out = folder / "deep" / "fitted"
    words = ["fit", "lora-dreambooth", str(folder / "pictures"), *NAMED]
    words += ["--out", str(out), "--set", "tune.steps=4"]
    refused = launch(*words)
    assert "Error: phase 'tune' cannot be shared out over 2 processes" in refused.stderr
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert not out.parent.exists()
    done = launch(*words, "--set", "tune.accumulate=2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [str(out)]
    assert done.stderr.count("fitted in") == 1
    assert [p.name for p in out.parent.iterdir()] == ["fitted"]
    assert load(out).subject == "pictures"


@pytest.mark.slow
def test_a_pre_training_too(folder: Path) -> None:
    for i in range(2):
        (folder / "pictures" / f"{i}.txt").write_text("a photo of a dog")
    words = ["pretrain", "ip-adapter", "--data", str(folder / "pictures"), "--backbone", "tiny"]
    settings = [*brief_settings(load_recipe("ip-adapter")), "adapter.batch=4"]
    sets = [word for setting in settings for word in ("--set", setting)]
    done = launch(*words, *sets, "--out", str(folder / "out"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [str(folder / "out")]
    assert sorted(p.name for p in folder.iterdir()) == ["out", "pictures"]


def test_the_others_look_at_no_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        if rank == "0":
            with pytest.raises(InputError, match="is a file"):
                fit_work.choose_destination(tmp_path / "taken", overwrite=False, resume=False)
        else:
            chosen = fit_work.choose_destination(tmp_path / "taken", overwrite=False, resume=False)
            assert chosen.folder == (tmp_path / "taken").resolve()


class FollowingProcess(Processes):
    """The second of two, which the first has told that it goes on."""

    def first(self, answer: object, length: int) -> list[bool]:
        return [True] * length


def test_the_others_work_where_the_first_does(tmp_path: Path) -> None:
    target = fit_work.Destination(tmp_path / "out", False)
    first = fit_work.open_together(target, {}, resume=False, processes=Processes())
    second = fit_work.open_together(target, {}, resume=False, processes=FollowingProcess(1, 2))
    assert (second.work, second.resumed, first.resumed) == (first.work, True, False)
    first.discard()


def test_each_process_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked: list[object] = []
    monkeypatch.setattr(torch, "empty", lambda *_, device: asked.append(device))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert opening.device_name("auto") == "cuda"
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert opening.device_name("auto") == opening.device_name("cuda") == "cuda:1"
    assert asked == ["cuda:1"] * 2
    assert opening.device_name("cpu") == "cpu"
    with pytest.raises(InputError, match="a device of its own"):
        opening.device_name("cuda:0")
