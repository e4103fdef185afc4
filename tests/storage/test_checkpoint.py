"""Checkpoints come back bit by bit, are whole or absent, and tell damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pcs_core.errors import ArtifactError, InputError
from pcs_core.storage.checkpoint import (
    cached_tensors,
    checkpoint_path,
    read_checkpoint,
    write_checkpoint,
)


def tensors() -> dict[str, torch.Tensor]:
    """Return tensors as a fit holds them: slices, ties, transposes, states, odd values."""
    stacked = torch.randn(2, 3)
    return {
        "a/0": stacked[0],
        "a/1": stacked[1],
        "tied": stacked,
        "turned": torch.randn(3, 4).t(),
        "half": torch.tensor([1.0, float("inf")], dtype=torch.bfloat16),
        "odd": torch.tensor([float("nan"), -0.0]),
        "step": torch.tensor(3.0),
        "on": torch.tensor([True, False]),
        "none": torch.zeros(0),
        "rng": torch.get_rng_state(),
        "grad": torch.nn.Parameter(torch.ones(2)),
    }


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_round_trip_is_bit_equal(tmp_path: Path) -> None:
    saved = tensors()
    write_checkpoint(tmp_path / "work", "fit-rex", saved, {"phase": 1, "list": [1, "é", None]})
    checkpoint = read_checkpoint(tmp_path / "work", "fit-rex")
    assert checkpoint is not None
    assert checkpoint[1] == {"phase": 1, "list": [1, "é", None]}
    assert set(checkpoint[0]) == set(saved)
    for name, tensor in saved.items():
        assert checkpoint[0][name].dtype == tensor.dtype
        assert checkpoint[0][name].shape == tensor.shape
        assert bits(checkpoint[0][name]) == bits(tensor)


def test_none_before_the_first_and_the_last_wins(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path, "fit") is None
    for step in (1, 2):
        write_checkpoint(tmp_path, "fit", {"x": torch.full((2,), step)}, {"step": step})
    checkpoint = read_checkpoint(tmp_path, "fit")
    assert checkpoint is not None
    assert (checkpoint[0]["x"].tolist(), checkpoint[1]) == ([2, 2], {"step": 2})
    assert len(list(tmp_path.iterdir())) == 1


def test_what_was_read_does_not_hang_on_the_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "fit", {"x": torch.arange(5000)}, {})
    checkpoint = read_checkpoint(tmp_path, "fit")
    assert checkpoint is not None
    with checkpoint_path(tmp_path, "fit").open("r+b") as file:
        file.write(bytes(1000))
        file.truncate(1000)
    assert torch.equal(checkpoint[0]["x"], torch.arange(5000))


def test_any_damage_is_told_by_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "fit", {"x": torch.randn(8), "y": torch.zeros(2)}, {"step": 3})
    path = checkpoint_path(tmp_path, "fit")
    content = path.read_bytes()
    for position in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(ArtifactError, match=r"fit\.safetensors is damaged"):
            read_checkpoint(tmp_path, "fit")
    for length in (0, 5, 50, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"fit\.safetensors is damaged"):
            read_checkpoint(tmp_path, "fit")
    torch.save({"x": torch.zeros(2)}, path)
    with pytest.raises(ArtifactError, match=r"fit\.safetensors is damaged"):
        read_checkpoint(tmp_path, "fit")


def test_any_name_is_a_file_of_its_own_inside_the_folder(tmp_path: Path) -> None:
    names = ["a", "A/b", "../up", ".", "..", "", "<dog>", "a b", "ü", "x" * 300, "x" * 301, "a%2Fb"]
    for index, name in enumerate(names):
        write_checkpoint(tmp_path / "w", name, {"i": torch.tensor(index)}, {})
    for index, name in enumerate(names):
        checkpoint = read_checkpoint(tmp_path / "w", name)
        assert checkpoint is not None
        assert int(checkpoint[0]["i"]) == index
    assert len(list((tmp_path / "w").iterdir())) == len(names)
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


def test_cached_tensors_are_made_once_and_again_when_damaged(tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"x": torch.arange(4)[1:]}

    first = cached_tensors(tmp_path, "prior/dog", make)
    again = cached_tensors(tmp_path, "prior/dog", make)
    assert first["x"].tolist() == again["x"].tolist() == [1, 2, 3]
    assert len(made) == 1
    path = checkpoint_path(tmp_path, "prior/dog")
    path.write_bytes(path.read_bytes()[:-1])
    assert cached_tensors(tmp_path, "prior/dog", make)["x"].tolist() == [1, 2, 3]
    assert len(made) == 2


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot write checkpoint 'fit' under .*file"):
        write_checkpoint(tmp_path / "file", "fit", {}, {})


KILLED = """
import sys, torch
from pathlib import Path
from pcs_core.storage.checkpoint import write_checkpoint
for step in range(10**6):
    write_checkpoint(Path(sys.argv[1]), "fit", {"x": torch.full((200_000,), step)}, {"step": step})
"""


def test_killed_while_writing_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=environment)
    try:
        deadline = time.monotonic() + 60
        while not checkpoint_path(tmp_path, "fit").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.25)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    checkpoint = read_checkpoint(tmp_path, "fit")
    assert checkpoint is not None
    assert bool((checkpoint[0]["x"] == checkpoint[1]["step"]).all())
