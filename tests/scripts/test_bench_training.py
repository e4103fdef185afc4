"""The benchmark of training: recipes that do what the scripts do, queues, rows, and a rehearsal on "tiny"."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from inference.rounds import Timing
from training.run import Ran, table
from training.tasks import TASKS, ours, queue

from pcs_cli.many.queue_file import read_queue
from pcs_core import load_recipe

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_training.py"


@pytest.mark.parametrize("name", TASKS)
def test_both_sides_of_a_task_are_given_the_same(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    path = queue(tmp_path, task, 3, 20, 5)
    lines, wrong = read_queue(path)
    assert (len(lines), wrong) == (3, [])
    assert [line.seed for line in lines] == [5, 6, 7]
    recipe = load_recipe(lines[0].system, overrides=lines[0].settings)
    (phase,) = recipe.phases
    assert (phase.steps, dict(phase.batch), phase.lr) == (20, {"subject": 1}, {"*": task.rate})
    words = task.peer(Path("diffusers"), tmp_path, 20, 128, 5)
    said = dict(zip(words[2::2], words[3::2], strict=False))
    assert words[1] == f"diffusers/{task.script}"
    assert (said["--max_train_steps"], said["--train_batch_size"]) == ("20", "1")
    assert (float(said["--learning_rate"]), said["--seed"]) == (task.rate, "5")
    assert ours(tmp_path, path, tmp_path / "out", 3)[-3:-1] == ["--together", "3"]


def test_a_script_of_one_subject_counts_as_often_as_there_are_subjects() -> None:
    times = {"diffusers": Timing((0.2,)), "one by one": Timing((1.2,)), "together": Timing((0.4,))}
    ran = {side: Ran(job=[9.0], processor=[0.1], memory=100.0) for side in times}
    rows = table(TASKS["dreambooth-lora"], "mini", 8, times, ran, 1.0)
    assert [row["seconds"] for row in rows] == pytest.approx([1.6, 1.2, 0.4])
    assert [row["ratio"] for row in rows] == pytest.approx([1.0, 1.6 / 1.2, 4.0])
    assert [row["processor_seconds"] for row in rows] == pytest.approx([0.8, 0.1, 0.1])
    assert {row["versus"] for row in rows} == {"dreambooth-lora, 8: diffusers"}


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_rehearsal(tmp_path: Path) -> None:
    assert "known are" in run("--tasks", "dreambooth-lara").stderr
    assert "no checkout" in run("--peer-scripts", tmp_path).stderr
    words = ("--model", "tiny", "--subjects", 2, "--steps", 2, "--rounds", 1)
    done = run(*words, "--tasks", "dreambooth-lora", "--out", tmp_path / "training.json")
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "training.json").read_text())
    names = [row["name"].rpartition(": ")[2] for row in said["rows"]]
    assert (names, said["skipped"]) == (["one by one", "together"], [])
    assert all(row["memory_mib"] > 10 for row in said["rows"])
    assert (tmp_path / "training.svg").exists()
