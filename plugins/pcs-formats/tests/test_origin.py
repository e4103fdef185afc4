"""An exported file says what it comes from, unless it is told not to; `pcs show FILE` reads it back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from pcs_core.storage import load
from pcs_core.storage.versions import versions
from pcs_diffusers.tiny import tiny
from pcs_formats.origin import KEY, licence_of
from pcs_testing import recipe_text

RECIPE = recipe_text("layers", "tokens.rare", "weights.lora", phases=(("joint", 2, 1e-3),))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a subject, a recipe, and the artifact that a command fitted."""
    from pcs_cli.main import main

    folder = tmp_path_factory.mktemp("origin")
    pictures = folder / "rex"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels, "RGB").save(pictures / f"secret-{index}.png")
    (folder / "layers.toml").write_text(RECIPE)
    words = [
        "fit",
        folder / "layers.toml",
        pictures,
        "--noun",
        "dog",
        "--token",
        "<rex>",
        "--backbone",
        "tiny",
    ]
    words += ["--out", folder / "fitted", "--no-preview", "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    return folder


def metadata_of(folder: Path) -> dict[str, str]:
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


@pytest.mark.parametrize("to", ["diffusers", "kohya"])
def test_the_file_says_what_it_comes_from(
    to: str, place: Path, tmp_path: Path, run_pcs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_pcs("export", place / "fitted", "--to", to, "--out", out) == 0
    capsys.readouterr()
    known = json.loads(metadata_of(out)[KEY])
    artifact, card = load(place / "fitted"), tiny().card
    assert known["recipe"] == {"id": "layers", "sha256": artifact.recipe.hash}
    assert known["base"] == {"id": "tiny", "family": "sd", "sha256": card.hash}
    assert known["versions"] == versions()
    assert known["licences"] == {"base": "not said"}
    assert known["seed"] == artifact.seed
    expected = []
    for file in sorted((place / "rex").glob("*.png")):
        pixels = np.asarray(Image.open(file), dtype=np.float32).transpose(2, 0, 1) / 255
        digest = hashlib.sha256(str((3, 32, 32)).encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
        expected.append({"sha256": digest.hexdigest()})
    assert known["references"] == expected
    assert "secret" not in json.dumps(known)
    (file,) = out.glob("*.safetensors")
    assert run_pcs("show", file, "--json") == 0
    assert json.loads(capsys.readouterr().out) == known
    assert run_pcs("show", file) == 0
    shown = capsys.readouterr().out
    assert f"layers  (sha256 {artifact.recipe.hash[:12]})" in shown
    assert expected[1]["sha256"][:12] in shown
    assert run_pcs("show", place / "fitted") == 0
    assert expected[0]["sha256"][:12] in capsys.readouterr().out


def test_without_provenance_nothing_of_it_is_there(
    place: Path, tmp_path: Path, run_pcs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, said = tmp_path / "plain", tmp_path / "said"
    words = ("export", place / "fitted", "--to", "diffusers")
    assert run_pcs(*words, "--no-provenance", "--out", plain) == 0
    assert run_pcs(*words, "--out", said) == 0
    without, with_it = metadata_of(plain), metadata_of(said)
    assert KEY not in without
    assert {k: v for k, v in with_it.items() if k != KEY} == without
    artifact = load(place / "fitted")
    for digest in (*artifact.extra["references"], artifact.recipe.hash):
        for file in plain.iterdir():
            assert digest.encode() not in file.read_bytes()
    capsys.readouterr()
    (file,) = plain.glob("*.safetensors")
    assert run_pcs("show", file) != 0
    assert "does not say where it comes from" in capsys.readouterr().err


def test_an_imported_file_is_named_by_its_hash(
    tmp_path: Path, run_pcs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    unet = tiny().denoiser
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    out, into = unet.get_submodule(name).weight.shape
    tensors = {
        f"unet.{name}.lora_A.weight": torch.ones(2, into),
        f"unet.{name}.lora_B.weight": torch.ones(out, 2),
    }
    save_file(tensors, tmp_path / "theirs.safetensors")
    words = ("--backbone", "tiny", "--out")
    assert run_pcs("import", tmp_path / "theirs.safetensors", *words, tmp_path / "adopted") == 0
    assert run_pcs("export", tmp_path / "adopted", "--to", "kohya", "--out", tmp_path / "out") == 0
    capsys.readouterr()
    known = json.loads(metadata_of(tmp_path / "out")[KEY])
    digest = hashlib.sha256((tmp_path / "theirs.safetensors").read_bytes()).hexdigest()
    assert known["imported"]["sha256"] == digest
    assert "references" not in known


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: openrail++\ntags: [x]\n---\n# SDXL\n", "openrail++"),
        ("---\ntags: [x]\n---\nlicense: mit\n", "not said"),
        ("# no table\nlicense: mit\n", "not said"),
        ("", "not said"),
    ],
)
def test_the_bases_licence_is_its_cards(card: str, licence: str, tmp_path: Path) -> None:
    assert licence_of(str(tmp_path)) == "not said"
    (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == licence
