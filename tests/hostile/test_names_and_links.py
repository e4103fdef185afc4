"""Names and links in what others made: none leads out of its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NAMES = (
    "../../../../../../../../escape",
    "../secret.txt",
    "/escape",
    "a/../../../secret.txt",
    "..",
    ".",
    "",
    "a\\..\\..\\b",
    "c:b",
    "a\0b",
    "\u202etxt.a",
    "\ud800",
    "x" * 5000,
    "\x1b[2J",
    "a\nb",
    "~/x",
    "${HOME}/x",
    "file:///etc/hostname",
)
DRAW = ("-o", "out", "-n", 1, "--steps", 1)


def unescaped(tmp_path: Path) -> bool:
    """Return whether nothing was written beside the test's folder or at the root."""
    around = [p for p in (tmp_path.parent, Path("/")) for p in p.glob("escape*")]
    return not around


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret.txt"
    file.write_text("a secret caption")
    return file


@pytest.mark.parametrize("name", NAMES)
def test_files_of_a_manifest(
    name: str, attack: Callable[..., Any], golden: Callable[..., Path], signed: Callable[..., Path],
    secret: Path,
) -> None:  # fmt: skip
    folder = golden()
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    signed(folder, lambda data: data["files"].update({name: digest}))
    attack("show", folder).refused()
    attack("sample", folder, "a dog", *DRAW).refused()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["name", "folder", "folders"])
def test_subjects_of_a_suite(
    name: str, key: str, attack: Callable[..., Any], tmp_path: Path, subject: Path, secret: Path
) -> None:
    said = json.dumps([name] if key == "folders" else name).replace("\\ud800", "\\U0000D800")
    row = f"name = {said}" if key == "name" else f'name = "subject"\n{key} = {said}'
    (tmp_path / "suite.toml").write_text(
        f'[suite]\nid = "s"\nkind = "object"\n[prompt]\nobject = ["a {{token}}"]\n'
        f'[[subject]]\nnoun = "dog"\n{row}\n'
    )
    argv = ("--systems", "style-aligned", "--backbone", "tiny", "--seeds", 1, "--engine", "inline")
    outcome = attack("bench", "run", "suite.toml", "-o", "a/b/bench", *argv).harmless()
    assert outcome.code in (2, 3), outcome
    assert unescaped(tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "key", ["images.folder", "images.checksums", "prompts.file", "suite.id", "prompts"]
)
def test_places_of_a_suite(
    name: str, key: str, attack: Callable[..., Any], tmp_path: Path, subject: Path, secret: Path
) -> None:
    said = json.dumps(name).replace("\\ud800", "\\U0000D800")
    suite = {"id": '"s"', "kind": '"object"'} | ({"id": said} if key == "suite.id" else {})
    images = {} if not key.startswith("images") else {key.partition(".")[2]: said}
    prompts = {"file": said} if key == "prompts.file" else {}
    row = {"name": '"subject"', "noun": '"dog"'} | ({"prompts": said} if key == "prompts" else {})
    text = ""
    for title, table in (
        ("[suite]", suite),
        ("[images]", images),
        ("[prompts]", prompts),
        ("[[subject]]", row),
    ):
        text += "\n".join([title, *(f"{k} = {v}" for k, v in table.items()), ""])
    (tmp_path / "suite.toml").write_text(text + '[prompt]\nobject = ["a {token}"]\n')
    argv = ("--systems", "style-aligned", "--backbone", "tiny", "--seeds", 1, "--engine", "inline")
    attack("bench", "run", "suite.toml", "-o", "a/b/bench", *argv).harmless()
    assert unescaped(tmp_path)


@pytest.mark.parametrize("key", ["name", "token", "noun", "kind"])
@pytest.mark.parametrize("name", NAMES)
def test_words_of_a_subject(
    key: str, name: str, attack: Callable[..., Any], subject: Path, secret: Path
) -> None:
    words = {"token": "<x>", "noun": "dog", key: name}
    lines = [f"{k} = {json.dumps(v)}" for k, v in words.items()]
    text = "\n".join(["[[concept]]", *lines, ""]).replace("\\ud800", "\\U0000D800")
    (subject / "subject.toml").write_text(text)
    fit = (
        "fit",
        "textual-inversion",
        subject,
        "-o",
        "a/b/out",
        "--backbone",
        "tiny",
        "--no-preview",
    )
    outcome = attack(*fit, "--set", "token.steps=1").harmless()
    assert outcome.code in (0, 2), outcome
    assert unescaped(subject.parent)


@pytest.mark.parametrize("what", ["a.txt", "a.caption", "a.json", "metadata.jsonl", "metadata.csv",
                                  "subject.toml"])  # fmt: skip
def test_a_link_beside_the_pictures(
    what: str, attack: Callable[..., Any], subject: Path, tmp_path: Path
) -> None:
    """A folder from elsewhere shows no text of this machine; links to pictures are how folders are made."""
    (tmp_path / "home").mkdir()
    target = tmp_path / "home" / f"secret{Path(what).suffix}"
    target.write_text("secret = 1")
    (subject / what).parent.mkdir(exist_ok=True)
    (subject / what).symlink_to(target)
    fit = ("fit", "textual-inversion", subject, "-o", "out", "--backbone", "tiny", "--no-preview")
    outcome = attack(*fit, "--noun", "dog", "--token", "<x>", "--set", "token.steps=1")
    outcome.refused("link")


@pytest.mark.parametrize("name", ["weights.safetensors", "recipe.toml", "manifest.json"])
def test_a_link_in_an_artifact(
    name: str, attack: Callable[..., Any], golden: Callable[..., Path], tmp_path: Path
) -> None:
    folder = golden()
    (folder / name).rename(tmp_path / f"secret{Path(name).suffix}")
    (folder / name).symlink_to(tmp_path / f"secret{Path(name).suffix}")
    attack("show", folder).refused()
    attack("sample", folder, "a dog", *DRAW).refused()


@pytest.mark.parametrize("location", ["../model", "evil/model", "https://evil.example/x", "/dev/zero",
                                      "//server/share", "\x1b[31m", "x" * 9999])  # fmt: skip
def test_where_its_maker_kept_a_backbone(
    location: str,
    attack: Callable[..., Any],
    golden: Callable[..., Path],
    signed: Callable[..., Path],
) -> None:
    folder = golden()

    def elsewhere(data: dict[str, Any]) -> None:
        data["backbone"] |= {"location": location, "id": location, "hash": "0" * 64}

    signed(folder, elsewhere)
    attack("show", folder).harmless()
    attack("sample", folder, "a dog", *DRAW).refused("--backbone")


@pytest.mark.parametrize("name", NAMES)
def test_shards_of_a_model(
    name: str, attack: Callable[..., Any], model: Path, secret: Path
) -> None:
    part = model / "unet"
    (part / "diffusion_pytorch_model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"conv_in.weight": name}}
    (part / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    attack("sample", "--base", model, "a dog", *DRAW).refused()


@pytest.mark.parametrize("key", ["subject", "versions", "extra", "losses", "concepts"])
@pytest.mark.parametrize("name", NAMES)
def test_other_names_of_a_manifest(
    key: str, name: str, attack: Callable[..., Any], golden: Callable[..., Path],
    signed: Callable[..., Path],
) -> None:  # fmt: skip
    folder = golden()
    one = {"name": name, "token": name, "noun": name, "kind": name}
    put: dict[str, Any] = {
        "subject": name,
        "versions": {name: name},
        "extra": {"adapter": {"name": name, "location": name}, name: name},
        "losses": {name: 1.0},
        "concepts": [one],
    }
    signed(folder, lambda data: data.update({key: put[key]}))
    attack("show", folder).harmless()
    attack("sample", folder, "a dog", "--json", *DRAW).harmless()
    attack("merge", folder, folder, "-o", "merged", "--no-preview").harmless()
    attack("export", folder, "--to", "kohya", "-o", "exported").harmless()
    assert unescaped(folder.parent)
