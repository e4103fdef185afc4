"""Exported files and drawn pictures say what they come from, unless told not to; `pcs show` reads it back."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from pcs_core.errors import InputError
from pcs_core.storage import load
from pcs_core.storage.versions import versions
from pcs_diffusers.tiny import tiny
from pcs_formats.origin import KEY, licence_of, origin_of, recorded
from pcs_testing import pixels, recipe_text

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


def drawn(run_pcs: Any, out: Path, *words: object) -> Path:
    assert run_pcs("sample", *words, "-n", 1, "--steps", 2, "--device", "cpu", "--out", out) == 0
    return out / "000.png"


def test_a_drawn_picture_says_what_it_comes_from(
    place: Path, tmp_path: Path, run_pcs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (place / "fitted", "a photo of <rex> in secret snow")
    picture = drawn(run_pcs, tmp_path / "a" / "secret", *words)
    again = drawn(run_pcs, tmp_path / "b", *words)
    assert picture.read_bytes() == again.read_bytes(), "no time and no place is in it"
    capsys.readouterr()
    assert run_pcs("show", picture, "--json") == 0
    known = json.loads(capsys.readouterr().out)
    artifact = load(place / "fitted")
    assert known == origin_of(artifact, artifact.recipe, tiny().card)
    assert len(known["references"]) == 2
    with Image.open(picture) as opened:  # as any other reader finds it
        assert json.loads(opened.text[KEY]) == known  # type: ignore[attr-defined]
    with Image.open(picture.with_name("sheet.png")) as opened:
        assert json.loads(opened.text[KEY]) == known  # type: ignore[attr-defined]
    content = picture.read_bytes()
    for word in (b"secret", b"snow", str(tmp_path).encode(), str(place).encode()):
        assert word not in content
    assert run_pcs("show", picture) == 0
    shown = capsys.readouterr().out
    assert f"layers  (sha256 {artifact.recipe.hash[:12]})" in shown
    assert known["references"][0]["sha256"][:12] in shown


def test_without_provenance_a_picture_holds_pixels_alone(
    place: Path, tmp_path: Path, run_pcs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (place / "fitted", "a photo of <rex>")
    plain = drawn(run_pcs, tmp_path / "plain", *words, "--no-provenance")
    said = drawn(run_pcs, tmp_path / "said", *words)
    assert pixels(plain) == pixels(said)
    for file in (plain, plain.with_name("sheet.png")):
        with Image.open(file) as opened:
            assert not opened.text  # type: ignore[attr-defined]
    capsys.readouterr()
    assert run_pcs("show", plain) != 0
    assert "does not say where it comes from" in capsys.readouterr().err


def test_pictures_of_the_base_and_of_several_artifacts_say_so(
    place: Path, tmp_path: Path, run_pcs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base = drawn(run_pcs, tmp_path / "base", "--base", "tiny", "a dog")
    artifact = load(place / "fitted")
    card = {"id": "tiny", "family": "sd", "sha256": tiny().card.hash}
    assert recorded(base) == {
        "base": card,
        "licences": {"base": "not said"},
        "versions": versions(),
    }
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    out, into = tiny().denoiser.get_submodule(layer).weight.shape
    style = {f"unet.{layer}.lora_A.weight": torch.ones(2, into)}
    style |= {f"unet.{layer}.lora_B.weight": torch.ones(out, 2)}
    save_file(style, tmp_path / "style.safetensors")
    words = ("import", tmp_path / "style.safetensors", "--backbone", "tiny")
    assert run_pcs(*words, "--out", tmp_path / "style") == 0
    both = ("--add", tmp_path / "style")
    file = drawn(run_pcs, tmp_path / "both", place / "fitted", "a photo of <rex>", *both)
    first, second = recorded(file)["together"]
    assert first["recipe"]["sha256"] == artifact.recipe.hash
    assert [r["sha256"] for r in first["references"]] == artifact.extra["references"]
    assert second["imported"]["kind"].startswith("LoRA")
    capsys.readouterr()
    assert run_pcs("show", file) == 0
    shown = capsys.readouterr().out
    assert artifact.recipe.hash[:12] in shown
    assert second["imported"]["sha256"][:12] in shown
    many = tmp_path / "many"
    (tmp_path / "prompts.txt").write_text("a photo of {token}\n")
    words = ("sample-many", place / "fitted", "--prompts", tmp_path / "prompts.txt", "-n", 1)
    assert run_pcs(*words, "--steps", 2, "--out", many, "--device", "cpu") == 0
    one = next(many.rglob("000.png"))
    assert recorded(one) == origin_of(artifact, artifact.recipe, tiny().card)


def damaged(content: bytes, how: str) -> bytes:
    """Return a PNG's bytes with something wrong."""
    at = content.index(b"tEXt")
    if how == "cut":
        return content[: at + 30]
    if how == "changed":
        return content[: at + 40] + b"?" + content[at + 41 :]
    if how == "no png":
        return b"P6 1 1 255 abc"
    chunk = b"tEXt" + b"pcs.provenance\0{" + b" " * 2**20
    long = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (size,) = struct.unpack(">I", content[at - 4 : at])
    end = at + 4 + size + 4  # behind the true one, in whose place it would be read
    return content[:end] + long + content[end:]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut", "is cut off"),
        ("changed", "is not the one that was written"),
        ("no png", "is no PNG"),
    ],
)
def test_damaged_pictures_are_refused(
    how: str, words: str, place: Path, tmp_path: Path, run_pcs: Any
) -> None:
    content = drawn(run_pcs, tmp_path / "d", place / "fitted", "a <rex>").read_bytes()
    (tmp_path / "bad.png").write_bytes(damaged(content, how))
    with pytest.raises(InputError, match=words):
        recorded(tmp_path / "bad.png")


def test_a_text_of_a_megabyte_is_passed_over(place: Path, tmp_path: Path, run_pcs: Any) -> None:
    picture = drawn(run_pcs, tmp_path / "d", place / "fitted", "a <rex>")
    (tmp_path / "long.png").write_bytes(damaged(picture.read_bytes(), "long"))
    assert recorded(tmp_path / "long.png") == recorded(picture)
