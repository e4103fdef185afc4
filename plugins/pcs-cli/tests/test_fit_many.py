"""``pcs fit-many``: fits of a queue share a forward, and each is what it would be alone."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

PACKED = """
[recipe]
id = "packed"

[[use]]
technique = "tokens.learnable"

[[use]]
technique = "weights.lora"
rank = 2

[[phase]]
name = "words"
steps = 2
lr = 5e-3
train = ["tokens.learnable/*"]

[[phase]]
name = "joint"
steps = 2
optimizer = "sgd"
lr = 1e-1
clip = 1.0

[sample]
steps = 2
"""


@pytest.fixture
def queue(tmp_path: Path, subject: Callable[..., Path]) -> Callable[..., Path]:
    """Write a queue over subjects of noise, a line for each mapping; its recipe lies beside it."""
    (tmp_path / "packed.toml").write_text(PACKED)

    def write(*lines: dict[str, Any] | str) -> Path:
        path = tmp_path / "queue.jsonl"
        rows = []
        for line in lines:
            if isinstance(line, dict):
                name = line.get("folder", "subjects/rex").rpartition("/")[2]
                if not (tmp_path / "subjects" / name).exists() and not line.get("absent"):
                    subject(name, seed=len(name))
                known = {
                    "system": str(tmp_path / "packed.toml"),
                    "noun": "dog",
                    "token": f"<{name}>",
                }
                line = json.dumps({**known, **line})
            rows.append(line)
        path.write_text("\n".join(rows) + "\n")
        return path

    return write


FOUR = (
    {"folder": "subjects/rex"},
    {"folder": "subjects/bella", "seed": 5, "set": {"joint.steps": 4, "weights.lora.rank": 4}},
    {"folder": "subjects/kit", "set": ["joint.steps=1", "joint.lr=0.05"]},
    {"folder": "subjects/oscar", "set": ["words.steps=3", "joint.accumulate=2"]},
)


def options(out: Path, *more: object) -> list[object]:
    return ["--out", out, "--backbone", "tiny", "--device", "cpu", *more]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "weights.safetensors")


def assert_equal(one: Path, other: Path) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)


def test_fits_of_one_forward_are_those_of_separate_runs(
    pcs: Callable, queue: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "many"
    done = pcs("fit-many", queue(*FOUR), *options(out, "--together", 2, "--json"))
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert sorted(Path(p).name for p in said["artifacts"]) == ["bella", "kit", "oscar", "rex"]
    # 4 + 6 + 3 + 5 steps, one of them in two parts each: two places share what one would take 20 for
    assert said["forwards"] < 14, said["forwards"]
    assert not list(out.glob("*.partial"))
    for line in FOUR:
        name = Path(str(line["folder"])).name
        settings = line.get("set", [])
        if isinstance(settings, dict):
            settings = [f"{k}={v}" for k, v in settings.items()]
        alone = pcs(
            *("fit", tmp_path / "packed.toml", tmp_path / "subjects" / name, "--noun", "dog"),
            *("--token", f"<{name}>", "--backbone", "tiny", "--device", "cpu", "--no-preview"),
            *("--seed", line.get("seed", 0), "--out", tmp_path / "alone" / name),
            *(word for one in settings for word in ("--set", one)),
        )
        assert alone.code == 0, alone.err
        assert_equal(out / name, tmp_path / "alone" / name)
        ours = json.loads((out / name / "manifest.json").read_text())
        theirs = json.loads((tmp_path / "alone" / name / "manifest.json").read_text())
        assert ours["recipe"] == theirs["recipe"]


def test_what_has_no_subject_axis_trains_one_after_the_other(
    pcs: Callable, queue: Callable, tmp_path: Path
) -> None:
    whole = PACKED.replace('"weights.lora"\nrank = 2', '"weights.full"\npattern = "mid_block*"')
    (tmp_path / "whole.toml").write_text(whole)
    system = {"system": str(tmp_path / "whole.toml")}
    path = queue({"folder": "subjects/a", **system}, {"folder": "subjects/bb", **system})
    done = pcs("fit-many", path, *options(tmp_path / "many", "--json"))
    assert done.code == 0, done.err
    assert "fits train one after the other: 'weights.full' has no subject axis" in done.err
    assert json.loads(done.out)["forwards"] == 8


def test_all_bad_lines_are_said_before_anything_starts(
    pcs: Callable, queue: Callable, tmp_path: Path
) -> None:
    path = queue(
        {"folder": "subjects/rex"},
        "{not json",
        {"folder": "subjects/nowhere", "absent": 1},
        '{"system": "lora-dreambooth"}',
        {"folder": "subjects/rex", "set": ["joint.stepz=3"], "name": "other"},
        {"folder": "subjects/rex"},
        {"folder": "subjects/rex", "seed": -1},
        '["a"]',
        {"folder": "subjects/rex", "name": "../up"},
        {"system": "no-such-system", "folder": "subjects/rex", "name": "third"},
    )
    out = tmp_path / "many"
    done = pcs("fit-many", path, *options(out))
    assert done.code == 2
    rows = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    where = [row.removeprefix(f"Error: {path}:").partition(":")[0] for row in rows]
    assert sorted(where, key=int) == ["2", "3", "4", "5", "6", "7", "8", "9", "10"]
    for words in (
        "at column",
        "unknown key 'absent'",
        "'folder' is missing",
        "stepz",
        "'rex' is the name of",
        "'seed' is -1",
        "no JSON object",
        "'name' is '../up'",
        "no-such-system",
    ):
        assert words in done.err
    assert "9 of the queue's lines cannot be fitted: nothing was begun" in done.err
    assert not out.exists()


def test_a_fit_that_fails_stops_no_other(pcs: Callable, queue: Callable, tmp_path: Path) -> None:
    path = queue(
        {"folder": "subjects/rex"},
        {"folder": "subjects/kit", "set": ["joint.lr=1e38", "joint.clip=0"]},
    )
    done = pcs("fit-many", path, *options(tmp_path / "many", "--json"))
    assert done.code == 3
    said = json.loads(done.out)
    assert [Path(p).name for p in said["artifacts"]] == ["rex"]
    assert "diverged" in said["failed"]["kit"]
    again = pcs("fit-many", path, *options(tmp_path / "many"))
    assert (again.code, "--resume goes on with it" in again.err) == (2, True)


def dies(arguments: list[str], writes: int) -> bool:
    """Run ``pcs`` in a child that is killed at its ``writes``-th write to the disk; return whether it was."""
    child = os.fork()
    if not child:
        code = 1
        try:
            import pcs_engine.checkpoints as checkpoints
            from pcs_cli.main import main

            checkpoints.SECONDS = 0.0  # one in every step
            sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            left = [writes]
            for name in ("replace", "fsync"):
                setattr(os, name, fatal(getattr(os, name), left))
            code = main(arguments)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.WIFSIGNALED(status)


def fatal(call: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """Return ``call``, in whose place the process is killed when nothing is ``left``."""

    def counted(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)

    return counted


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child that was forked")
def test_killed_at_random_points_every_artifact_is_that_of_an_undisturbed_run(
    pcs: Callable, queue: Callable, tmp_path: Path
) -> None:
    path, out = queue(*FOUR), tmp_path / "many"
    assert pcs("fit-many", path, *options(tmp_path / "whole", "--together", 2)).code == 0
    arguments = ["fit-many", str(path), *map(str, options(out, "--together", 2, "--resume"))]
    rng = random.Random(3)
    kills = sum(dies(arguments, rng.randint(12, 40)) for _ in range(6))
    assert kills >= 3
    done = pcs(*arguments)
    assert done.code == 0, done.err
    states = [json.loads(row)["state"] for row in (out / "fit-many.jsonl").read_text().splitlines()]
    assert states.count("begun") > len(FOUR)  # some were taken up again
    for line in FOUR:
        name = Path(str(line["folder"])).name
        assert_equal(out / name, tmp_path / "whole" / name)
    assert not list(out.glob("*.partial"))
    done = pcs(*arguments)  # nothing is fitted twice
    assert "4 of 4 are there already" in done.err
    assert "fitted 0" in done.err


def test_sizes_buckets_and_crops_are_those_of_separate_runs(
    pcs: Callable, queue: Callable, tmp_path: Path
) -> None:
    """Fits of one size share a forward; one of buckets trains by itself."""
    sized = {"size": "48x32"}
    lines = (
        {"folder": "subjects/rex", **sized},
        {"folder": "subjects/bella", **sized, "crop": "none"},
        {"folder": "subjects/kit", "buckets": True, "size": "32x32"},
        {"folder": "subjects/oscar"},
    )
    many, alone = tmp_path / "many", tmp_path / "alone"
    done = pcs("fit-many", queue(*lines), *options(many), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["forwards"] == 8  # two of 48x32 together, one of the backbone's own
    ways = {"rex": ["--size", "48x32"], "bella": ["--size", "48x32", "--crop", "none"]}
    ways["kit"] = ["--size", "32x32", "--buckets"]
    for name in ("rex", "bella", "kit", "oscar"):
        words = ["--noun", "dog", "--token", f"<{name}>", "--no-preview", *ways.get(name, [])]
        folder = tmp_path / "subjects" / name
        done = pcs("fit", tmp_path / "packed.toml", folder, *words, *options(alone / name))
        assert done.code == 0, done.err
        assert_equal(many / name, alone / name)
        extra = [
            json.loads((p / name / "manifest.json").read_text())["extra"] for p in (many, alone)
        ]
        assert extra[0].get("size") == extra[1].get("size")
        assert extra[0].get("buckets") == extra[1].get("buckets")
    again = pcs("fit-many", queue(*lines), *options(many), "--resume")
    assert "4 of 4 are there already" in again.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"size": "33x32"}, "multiples of 4"),
        ({"size": 512}, "'size' is 512: give a text"),
        ({"buckets": "yes"}, "'buckets' is 'yes': give true or false"),
        ({"crop": "middle"}, "crop"),
    ],
)
def test_a_size_that_cannot_be_is_refused_with_its_line(
    pcs: Callable, queue: Callable, tmp_path: Path, line: dict[str, Any], said: str
) -> None:
    done = pcs("fit-many", queue({"folder": "subjects/rex", **line}), *options(tmp_path / "many"))
    assert done.code == 2
    assert "queue.jsonl:1" in done.err
    assert said in done.err
