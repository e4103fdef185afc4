"""SDXL and SD 3 on the command line: from a folder of pictures to pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_cli.main import main
from pcs_core.storage import load
from pcs_folders.pictures import write_png

BACKBONES = ("tiny-sdxl", "tiny-sd3", "tiny-flux")
TRAINED = {
    "lora-dreambooth": "weights.lora/transformer_blocks.0.attn.to_q/A",
    "textual-inversion": "tokens.learnable/<thing>/rows",
    "dreambooth": "weights.full/",
}
WIDTHS = {"tiny-sdxl": 32 + 48, "tiny-sd3": 32 + 48 + 96, "tiny-flux": 32 + 96}
"""Of a learned word: a row in every encoder."""
PRIOR = "regularizers.prior_preservation"
SETTINGS = {"dreambooth": ("--set", f"{PRIOR}.count=2", "--set", f"{PRIOR}.steps=2")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("subjects") / "thing"
    path.mkdir()
    rng = torch.Generator().manual_seed(0)
    for i in range(2):
        write_png(torch.rand(3, 40, 36 + 8 * i, generator=rng), path / f"{i}.png")
        (path / f"{i}.txt").write_text("a photo of a dog")
    return path


@pytest.fixture
def pcs(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert code == 0, err
        return out

    return run


def steps(system: str) -> list[str]:
    from pcs_core import load_recipe

    phases = load_recipe(system).phases
    return [word for p in phases for word in ("--set", f"{p.name}.steps=2")]


def draw(pcs: Callable[..., str], what: Path, out: Path, *more: object) -> dict[str, Any]:
    given = ("a photo of <thing> on the beach", "-n", 2, "--steps", 2, "--seed", 1)
    pcs("sample", what, *given, *more, "--device", "cpu", "--out", out)
    document: dict[str, Any] = json.loads((out / "sample.json").read_text())
    assert (out / "000.png").exists()
    assert (out / "001.png").exists()
    return document


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("system", TRAINED)
def test_fit_and_sample(
    system: str, backbone: str, folder: Path, pcs: Callable[..., str], tmp_path: Path
) -> None:
    words = ("--noun", "dog", "--token", "<thing>", "--backbone", backbone, "--device", "cpu")
    made = tmp_path / "artifact"
    options = (*words, *steps(system), *SETTINGS.get(system, ()), "--no-preview", "--out", made)
    pcs("fit", system, folder, *options)
    artifact = load(made)
    assert artifact.backbone.id == backbone
    prefix = TRAINED[system] if backbone != "tiny-sdxl" or "lora" not in system else "weights.lora/"
    assert any(name.startswith(prefix) for name in artifact.tensors)
    if system == "textual-inversion":  # a row in every encoder
        assert artifact.tensors[prefix].shape == (1, WIDTHS[backbone])
    document = draw(pcs, made, tmp_path / "first")
    assert document["backbone"]["id"] == backbone
    draw(pcs, made, tmp_path / "again")
    pictures = [(tmp_path / run / "000.png").read_bytes() for run in ("first", "again")]
    assert pictures[0] == pictures[1]


def test_image_tokens_on_sdxl(folder: Path, pcs: Callable[..., str], tmp_path: Path) -> None:
    few = ("encoders.image.model=tiny.image", "encoders.image.output=pooled")
    options = [word for change in few for word in ("--set", change)]
    on = ("--backbone", "tiny-sdxl", "--device", "cpu")
    adapter, made = tmp_path / "adapter", tmp_path / "artifact"
    less = ("--set", "adapter.steps=2", "--set", "adapter.batch=2")
    pcs("pretrain", "ip-adapter", "--data", folder, *on, *options, *less, "--out", adapter)
    words = ("--noun", "dog", "--token", "<thing>", "--adapter", adapter, "--no-preview")
    pcs("fit", "ip-adapter", folder, *on, *words, *options, "--out", made)
    draw(pcs, made, tmp_path / "full")
    draw(pcs, made, tmp_path / "none", "--strength", "image.scale=0")
    drawn = [(tmp_path / run / "000.png").read_bytes() for run in ("full", "none")]
    assert drawn[0] != drawn[1]


def test_what_joint_attention_cannot_is_refused(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--noun", "dog", "--token", "<thing>", "--backbone", "tiny-sd3", "--device", "cpu"]
    out, file = tmp_path / "artifact", tmp_path / "own.toml"
    file.write_text(
        '[recipe]\nid = "own"\n[[use]]\ntechnique = "weights.kv"\n[[phase]]\nname = "all"\nsteps = 1\n'
    )
    assert main(["fit", str(file), str(folder), *words, "--out", str(out)]) != 0
    said = capfd.readouterr().err
    assert "weights.kv" in said
    assert "transformer_blocks.0.attn" in said
    assert not out.exists()
