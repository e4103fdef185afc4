"""``pcs fit``: what it writes, and that it writes all or nothing."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_core.errors import InputError

FILES = {"manifest.json", "recipe.toml", "weights.safetensors", "preview.png"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_folder_becomes_the_artifact(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    done = pcs(*fit_arguments)
    assert done.code == 0, done.err
    out = tmp_path / "out" / "rex"
    assert done.out == f"{out}\n"
    assert names(out) == FILES
    assert names(out.parent) == {"rex"}
    assert "core.denoise" in done.err
    assert f"pcs sample {out}" in done.err


def test_a_preview_that_cannot_be_drawn_loses_no_fit(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control branch, say, has no key points until a prompt's layout gives some."""

    def refuse(*rest: object, **options: object) -> None:
        raise InputError("the control branch needs key points")

    monkeypatch.setattr("pcs_engine.sample", refuse)
    done = pcs(*fit_arguments)
    assert done.code == 0, done.err
    assert names(tmp_path / "out" / "rex") == FILES - {"preview.png"}
    assert "no preview.png (the control branch needs key points" in done.err


def test_low_precision_and_checkpointing(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    done = pcs(*fit_arguments, "--precision", "bf16", "--gradient-checkpointing")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "out" / "rex" / "manifest.json").read_text())
    assert manifest["extra"]["precision"] == "bf16"
    assert manifest["extra"]["gradient_checkpointing"] is True


def test_the_crop_reaches_the_fit(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    read = []
    for name, crop in (("a", "centre"), ("b", "none")):
        done = pcs(*fit_arguments[:-1], tmp_path / name, "--no-preview", "--crop", crop)
        assert done.code == 0, done.err
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["extra"]["crop"] == crop
        read.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert read[0] != read[1]


def test_an_unknown_precision_makes_nothing(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    done = pcs(*fit_arguments, "--precision", "half")
    assert done.code == 2
    assert "--precision 'half': fp32, bf16 or fp16" in done.err
    assert not (tmp_path / "out").exists()


def test_several_folders_train_together(
    pcs: Callable, recipe: Path, subject: Callable, tmp_path: Path
) -> None:
    folders = [subject("rex"), subject("tom", seed=1)]
    out = tmp_path / "both"
    options = ["--noun", "dog", "--token", "<it>", "--backbone", "tiny", "--no-preview", "--json"]
    done = pcs("fit", recipe, *folders, *options, "--out", out)
    assert done.code == 0, done.err
    assert names(out) == {"rex", "tom"}
    assert names(out / "tom") == FILES - {"preview.png"}
    printed = json.loads(done.out)
    assert [row["path"] for row in printed["artifacts"]] == [str(out / "rex"), str(out / "tom")]


def test_a_taken_folder_is_replaced_only_when_asked(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out" / "rex"
    assert pcs(*fit_arguments).code == 0
    before = (out / "weights.safetensors").read_bytes()
    refused = pcs(*fit_arguments)
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert (out / "weights.safetensors").read_bytes() == before
    assert pcs(*fit_arguments, "--overwrite", "--seed", 1, "--no-preview").code == 0
    assert (out / "weights.safetensors").read_bytes() != before
    assert names(out) == FILES - {"preview.png"}
    assert names(out.parent) == {"rex"}


def test_the_old_artifact_stays_until_the_new_one_is_complete(
    pcs: Callable,
    fit_arguments: list[object],
    fitted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shutil

    import pcs_core.storage

    out = tmp_path / "out" / "rex"
    shutil.copytree(fitted, out)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pcs_core.storage, "save", full)
        done = pcs(*fit_arguments, "--overwrite")
    assert done.code == 2
    assert "No space left on device" in done.err
    assert names(out) == FILES
    assert "--resume" in done.err
    assert pcs(*fit_arguments, "--overwrite", "--resume").code == 0
    assert names(out.parent) == {"rex"}


def test_what_pcs_did_not_write_is_kept(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out" / "rex"
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("years of work")
    done = pcs(*fit_arguments, "--overwrite", "--no-preview")
    assert done.code == 0
    assert (tmp_path / "out" / "rex.old" / "thesis.txt").read_text() == "years of work"
    assert "rex.old" in done.err
    assert names(out) == FILES - {"preview.png"}


def test_an_interrupted_fit_says_how_to_go_on(
    pcs: Callable,
    fit_arguments: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pcs_engine

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pcs_engine, "fit", interrupt)
        done = pcs(*fit_arguments, "--set", "words.steps=4")
    assert done.code == 130
    out = tmp_path / "out" / "rex"
    assert not out.exists()
    command = shlex.split(done.err.strip().splitlines()[-1])
    assert command[:2] == ["pcs", "fit"]
    assert "--resume" in command
    left = pcs(*fit_arguments, "--set", "words.steps=4")
    assert left.code == 2
    assert "--resume" in left.err
    assert "--overwrite" in left.err
    done = pcs(*command[1:])
    assert done.code == 0, done.err
    assert names(out.parent) == {"rex"}


def test_resuming_with_something_else_is_refused_by_name(
    pcs: Callable,
    fit_arguments: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from PIL import Image

    import pcs_engine

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pcs_engine, "fit", interrupt)
        assert pcs(*fit_arguments).code == 130
    for options, says in (
        (["--seed", 7], "seed was 0, is 7"),
        (["--set", "words.steps=4"], "words.steps was 6, is 4"),
        (["--backbone", "tiny-v"], "backbone"),
    ):
        done = pcs(*fit_arguments, *options, "--resume")
        assert done.code == 2
        assert says in done.err
    Image.new("RGB", (8, 8)).save(tmp_path / "subjects" / "rex" / "9.png")
    done = pcs(*fit_arguments, "--resume")
    assert done.code == 2
    assert "subjects.rex.content" in done.err
    assert pcs(*fit_arguments, "--overwrite", "--no-preview").code == 0


def test_with_nothing_to_resume_it_starts_anew(pcs: Callable, fit_arguments: list[object]) -> None:
    done = pcs(*fit_arguments, "--resume", "--no-preview")
    assert done.code == 0
    assert "nothing to resume" in done.err


def test_a_folder_in_use_is_refused(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "out").mkdir()
    journal = tmp_path / "out" / ".rex.pcs"
    who = "another command (process 4242: pcs fit \\u001b[31m)"
    with journal.open("w") as file:
        file.write('{"process": 4242, "command": "pcs fit \\u001b[31m"}\n')
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        for more in ((), ("--overwrite",), ("--resume",)):
            done = pcs(*fit_arguments, *more)
            assert done.code == 2
            assert f"{who} is at work in {tmp_path / 'out' / 'rex'}" in done.err
    assert names(tmp_path / "out") == {".rex.pcs"}
    assert pcs(*fit_arguments).code == 0
    assert names(tmp_path / "out") == {"rex"}


def test_an_error_within_the_fit_leaves_nothing(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    done = pcs(*fit_arguments, "--set", 'words.train=["nothing/*"]')
    assert done.code == 2
    assert "words" in done.err
    assert not (tmp_path / "out").exists() or not names(tmp_path / "out")


def test_an_error_before_the_first_step_is_not_resumed(
    pcs: Callable,
    fit_arguments: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pcs_engine

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def crash(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    wrong = [*fit_arguments, "--set", 'words.train=["nothing/*"]']
    with monkeypatch.context() as patch:
        patch.setattr(pcs_engine, "fit", interrupt)
        assert pcs(*wrong).code == 130
    partial = tmp_path / "out" / "rex.partial"
    assert partial.exists()
    done = pcs(*wrong, "--resume")
    assert done.code == 2
    assert "trains nothing" in done.err
    assert "--resume" not in done.err
    assert not partial.exists()
    with monkeypatch.context() as patch:
        patch.setattr(pcs_engine, "fit", crash)
        done = pcs(*fit_arguments)
    assert done.code == 1
    assert "--resume" not in done.err
    assert not partial.exists()


def test_a_diverged_subject_is_left_out_and_told(
    pcs: Callable,
    recipe: Path,
    subject: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import dataclasses

    import pcs_engine

    fit = pcs_engine.fit

    def diverging(*arguments: object, **options: object) -> list:
        rex, *others = fit(*arguments, **options)
        tensors = {name: tensor * float("nan") for name, tensor in rex.tensors.items()}
        return [dataclasses.replace(rex, tensors=tensors), *others]

    monkeypatch.setattr(pcs_engine, "fit", diverging)
    folders = [subject("rex"), subject("tom", seed=1)]
    options = ["--noun", "dog", "--token", "<it>", "--backbone", "tiny", "--no-preview"]
    done = pcs("fit", recipe, *folders, *options, "--out", tmp_path / "both")
    assert done.code == 3
    assert names(tmp_path / "both") == {"tom"}
    assert "'rex' diverged" in done.err
    done = pcs("fit", recipe, folders[0], *options, "--out", tmp_path / "new" / "one")
    assert done.code == 2
    assert "diverged" in done.err
    assert not (tmp_path / "new").exists()


KILLED = """
import os, signal, sys
import pcs_engine.checkpoints as checkpoints
from pcs_cli.main import main
checkpoints.SECONDS = 0.0
write, count = checkpoints.Checkpoints.maybe_write, 0
def then_die(self, *args, **options):
    global count
    write(self, *args, **options)
    count += 1
    if count == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.Checkpoints.maybe_write = then_die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(2, marks=pytest.mark.slow),  # in the first phase
        5,  # in the second
        pytest.param(8, marks=pytest.mark.slow),  # after the last step
    ],
)
def test_a_killed_fit_goes_on_bit_for_bit(
    pcs: Callable, layers: Path, subject: Callable, tmp_path: Path, after: int
) -> None:
    folders = [subject("rex"), subject("tom", seed=1)]
    words = ["--noun", "dog", "--token", "<it>", "--backbone", "tiny", "--device", "cpu"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = ["fit", layers, *folders, *words, "--no-preview"]
    assert pcs(*arguments, "--out", whole).code == 0
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(after=after), *map(str, arguments), "--out", parts],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not parts.exists()
    assert list((tmp_path / "parts.partial" / "work").glob("*.safetensors"))
    done = pcs(*arguments, "--resume", "--out", parts)
    assert done.code == 0, done.err
    assert "anew" not in done.err
    for name in ("rex", "tom"):
        assert names(whole / name) == names(parts / name)
        for file in names(whole / name):
            assert (whole / name / file).read_bytes() == (parts / name / file).read_bytes(), file
    assert not (tmp_path / "parts.partial").exists()


TRAINS_NOTHING = """
[recipe]
id = "at-hand"

[[use]]
technique = "tokens.rare"
identifier = ""

[sample]
steps = 2
"""


def test_a_system_that_trains_nothing_needs_no_folder(pcs: Callable, tmp_path: Path) -> None:
    recipe = tmp_path / "at-hand.toml"
    recipe.write_text(TRAINS_NOTHING, "utf-8")
    options = ["--backbone", "tiny"]
    done = pcs("fit", recipe, *options, "--out", tmp_path / "free")
    assert done.code == 0, done.err
    assert names(tmp_path / "free") == FILES
    drawn = pcs("sample", tmp_path / "free", "a red car", "-n", 1, "--out", tmp_path / "drawn")
    assert drawn.code == 0, drawn.err
    done = pcs("fit", recipe, *options, "--noun", "dog", "--out", tmp_path / "half")
    assert done.code == 2
    assert "give both" in done.err
    named = ["--noun", "dog", "--token", "<rex>", "--no-preview"]
    assert pcs("fit", recipe, *options, *named, "--out", tmp_path / "named").code == 0
    unnamed = pcs("sample", tmp_path / "named", "a car", "--out", tmp_path / "no")
    assert "<rex>" in unnamed.err


def test_a_system_that_trains_needs_a_folder(pcs: Callable, recipe: Path, tmp_path: Path) -> None:
    done = pcs("fit", recipe, "--backbone", "tiny", "--out", tmp_path / "out")
    assert done.code == 2
    assert "give a FOLDER" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "fault", [MemoryError("no room"), KeyboardInterrupt(), RuntimeError("bug")]
)
def test_a_preview_that_fails_leaves_what_was_fitted(
    pcs: Callable,
    fit_arguments: list[object],
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr("pcs_engine.sample", fail)
    done = pcs(*fit_arguments)
    assert done.code == 0, done.err
    assert "no preview.png" in done.err
    out = Path(str(fit_arguments[-1]))
    assert (out / "weights.safetensors").is_file()
    assert not (out / "preview.png").exists()
