"""A telephone's pictures, and pictures of several subjects, from the folder through the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


def test_a_telephones_pictures_are_fitted(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    folder = tmp_path / "subjects" / "rex"
    for file in sorted(folder.glob("*.png")):
        pillow_heif.from_pillow(Image.open(file)).save(file.with_suffix(".heic"))
        file.unlink()
    plan = pcs(*fit_arguments, "--dry-run", "--json")
    assert plan.code == 0, plan.err
    (row,) = json.loads(plan.out)["subjects"]
    assert {f["file"]: f["use"] for f in row["files"]} == {"0.heic": "picture", "1.heic": "picture"}
    assert pcs(*fit_arguments, "--no-preview").code == 0
    assert (tmp_path / "out" / "rex" / "weights.safetensors").is_file()


def test_whom_nothing_names_is_said_in_the_plan_and_in_the_fit(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    folder = tmp_path / "subjects" / "rex"
    tables = (f'[[concept]]\ntoken = "<{noun}>"\nnoun = "{noun}"\n' for noun in ("dog", "cat"))
    (folder / "subject.toml").write_text("".join(tables))
    (folder / "1.txt").write_text("a <cat>")
    at = [str(word) for word in fit_arguments]
    words = [w for i, w in enumerate(at) if not {w, at[i - 1]} & {"--noun", "--token"}]
    for more in (["--dry-run"], ["--no-preview"]):
        done = pcs(*words, *more)
        assert done.code == 0, done.err
        said = " ".join((done.out + done.err).split())
        assert "nothing says whom 0.png shows, so all count (dog, cat)" in said
