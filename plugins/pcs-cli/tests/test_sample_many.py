"""``pcs sample-many``: different subjects in one batch, each picture as its artifact alone draws it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_cli.many.drawing import Drawing
from pcs_testing import recipe_text

ARTIFACTS = {"ann": "weights.lora", "bo": "weights.lora", "cy": "weights.kv", "dee": "weights.kv"}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four artifacts: two with LoRA of different ranks, two with keys and values."""
    from pcs_cli.main import main

    place = tmp_path_factory.mktemp("drawn-many")
    rows = []
    for number, (name, technique) in enumerate(ARTIFACTS.items()):
        (place / f"{technique}.toml").write_text(
            recipe_text(technique, "tokens.learnable", technique)
        )
        (place / name).mkdir()
        pixels = np.random.default_rng(number).integers(0, 256, (36, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels, "RGB").save(place / name / "0.png")
        line = {"system": str(place / f"{technique}.toml"), "folder": name, "noun": "dog"}
        line |= {"token": f"<{name}>", "seed": number}
        if name == "bo":
            line["set"] = ["weights.lora.rank=2"]  # type: ignore[assignment]
        rows.append(json.dumps(line))
    (place / "queue.jsonl").write_text("\n".join(rows))
    out = place / "fits"
    words = ["--backbone", "tiny", "--device", "cpu", "--out", str(out)]
    assert main(["fit-many", str(place / "queue.jsonl"), *words]) == 0
    return out


def test_pictures_are_those_of_separate_runs(pcs: Callable, fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(
        "a photo of {token} dog\n\n{token} on the beach at night\n"
    )
    folders = [fitted / name for name in ARTIFACTS]
    out = tmp_path / "drawn"
    options = ("-n", 2, "--seed", 7, "--device", "cpu")
    words = ("--prompts", tmp_path / "prompts.txt", "--out", out, *options, "--json")
    done = pcs("sample-many", "--artifacts", *folders, *words)
    assert done.code == 0, done.err
    assert json.loads(done.out)["batches"] == 2  # one of each kind, 8 pictures of two subjects
    for name in ARTIFACTS:
        facts = json.loads((out / name / "sample.json").read_text())
        assert facts["artifact"]["tokens"] == [f"<{name}>"]
        assert [row["seed"] for row in facts["pictures"]] == [7, 8, 9, 10]
        assert (out / name / "sheet.png").exists()
        prompt = f"<{name}> on the beach at night"
        alone = pcs("sample", fitted / name, prompt, "-n", 2, "--seed", 9, "--out", tmp_path / name)
        assert alone.code == 0, alone.err
        for mine, theirs in (("002", "000"), ("003", "001")):
            ours = np.asarray(Image.open(out / name / f"{mine}.png"), dtype=int)
            other = np.asarray(Image.open(tmp_path / name / f"{theirs}.png"), dtype=int)
            assert np.abs(ours - other).max() <= 1


def test_equal_to_a_hundred_thousandth(fitted: Path) -> None:
    from pcs_cli.many.drawing import Drawing, Subject
    from pcs_core import load, open_backbone, sample

    artifacts = [load(fitted / name) for name in ARTIFACTS]
    backbone = open_backbone("tiny")
    prompts = [(f"a photo of {a.concepts[0].token}",) for a in artifacts]
    subjects = [Subject(a, p, a.recipe.sample) for a, p in zip(artifacts, prompts, strict=True)]
    drawn: dict[int, torch.Tensor] = {}
    said: list[str] = []
    drawing = Drawing(backbone, subjects, 2, 3, drawn.__setitem__, said.append)
    drawing.run()
    assert (drawing.batches, said) == (2, [])
    pictures = [
        sample(a, backbone, p, count=2, seed=3) for a, p in zip(artifacts, prompts, strict=True)
    ]
    for number, expected in enumerate(pictures):
        torch.testing.assert_close(drawn[number], expected, rtol=0, atol=1e-5)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(pictures, pictures[1:], strict=False))


def test_what_is_wrong_is_said_of_all(pcs: Callable, fitted: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of <ann>\n")
    words = ("--prompts", prompts, "--out", tmp_path / "drawn")
    done = pcs("sample-many", *(fitted / name for name in ARTIFACTS), *words)
    assert done.code == 2
    assert done.err.count("does not name the subject") == 3
    done = pcs("sample-many", fitted / "ann", fitted / "ann", *words)
    assert (done.code, "two artifacts are called 'ann'" in done.err) == (2, True)
    prompts.write_text("\n")
    assert "holds no prompt" in pcs("sample-many", fitted / "ann", *words).err
    assert not (tmp_path / "drawn").exists()


@pytest.mark.parametrize("after", [0, 1])
def test_what_is_kept_of_an_interrupted_drawing_is_said(
    pcs: Callable, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    def stopped(drawing: Drawing) -> None:
        for number in range(after):
            drawing.finished(number, torch.zeros(1, 3, 32, 32))
        raise KeyboardInterrupt

    monkeypatch.setattr(Drawing, "run", stopped)
    (tmp_path / "prompts.txt").write_text("a {token}\n{token} there\n")
    words = ("--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "drawn", "-n", 1)
    done = pcs("sample-many", "--artifacts", fitted / "ann", fitted / "bo", *words)
    assert done.code == 130
    assert done.err.count("interrupted: 1 finished picture is kept") == after
    assert done.err.count("interrupted: no picture was finished") == 2 - after
    assert "failed" not in done.err


def test_an_interruption_before_anything_was_drawn_is_said(
    pcs: Callable, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pcs_engine.known_backbones.location_of", stopped)
    (tmp_path / "prompts.txt").write_text("a {token}\n")
    words = ("--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "drawn", "-n", 1)
    done = pcs("sample-many", "--artifacts", fitted / "ann", fitted / "bo", *words)
    assert done.code == 130
    assert "interrupted" in done.err
