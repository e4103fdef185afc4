"""``pcs fit`` without a folder, and ``pcs render``."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pcs_cli.main import main

FEW = [
    *("--set", "render.steps=2", "--set", "render.batch={rendered=1}", "--set", "sample.steps=2"),
    *("--set", "three_d.renderable.size=16", "--set", "three_d.renderable.cells=6"),
    *("--set", "three_d.renderable.samples=8", "--backbone", "tiny", "--no-preview"),
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fits") / "dog"
    assert main(["fit", "dreamfusion", "--out", str(out), "--noun", "dog", *FEW]) == 0
    return out


def test_a_turntable_and_its_pictures(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "views"
    assert main(["render", str(artifact), "--out", str(out), "--views", "5", "--size", "24"]) == 0
    names = sorted(p.name for p in out.iterdir())
    assert names == [".pcs-files.json", *(f"{i:03d}.png" for i in range(5)), "sheet.png"]
    assert Image.open(out / "000.png").size == (24, 24)
    assert main(["render", str(artifact), "--out", str(tmp_path / "own"), "--views", "1"]) == 0
    assert Image.open(tmp_path / "own" / "000.png").size == (16, 16)


def test_refusals(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "dreamfusion", "--out", str(tmp_path / "x"), *FEW]) == 2
    assert "give --noun, or a FOLDER" in capsys.readouterr().err
    assert main(["render", str(artifact), "--out", str(artifact)]) == 2
    assert main(["render", str(tmp_path / "none"), "--out", str(tmp_path / "y")]) == 2
    assert not (tmp_path / "y").exists()
