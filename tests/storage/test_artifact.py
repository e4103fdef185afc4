"""An artifact comes back as it was saved, and any damage is told by the name of the file."""

from __future__ import annotations

import hashlib
import json
import math
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core.catalogue import Catalogue
from pcs_core.data import Personalization
from pcs_core.errors import ArtifactError, InputError
from pcs_core.storage import load, save
from pcs_core.storage.tensor_files import read_tensors, write_tensors


@pytest.fixture
def stored(tmp_path: Path, artifact: Personalization) -> Path:
    folder = tmp_path / "out" / "rex"
    save(artifact, folder, extra_files={"preview.png": b"picture"})
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as someone would who also corrects its digest."""
    file = folder / "manifest.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data)
    del data["sha256"]
    canonical = json.dumps(data, sort_keys=True)
    data["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def test_everything_comes_back(
    stored: Path, artifact: Personalization, catalogue: Catalogue
) -> None:
    again = load(stored, catalogue=catalogue)
    assert set(again.tensors) == set(artifact.tensors)
    for name, tensor in artifact.tensors.items():
        assert again.tensors[name].dtype == tensor.dtype
        assert torch.equal(again.tensors[name], tensor)
    assert torch.equal(again.features["clip.image"], artifact.features["clip.image"])
    assert again.recipe.document == artifact.recipe.document
    assert again.recipe.hash == artifact.recipe.hash
    assert again.recipe.source == artifact.recipe.source
    assert again.recipe.uses[0].technique.settings() == {"rank": 8}
    assert again.backbone == artifact.backbone
    assert again.concepts == artifact.concepts
    assert (again.seed, again.subject, again.extra) == (7, "rex", artifact.extra)
    assert again.versions == {"pcs-core": "0.0.1"}
    assert again.losses["core.denoise"] == 0.125
    assert math.isnan(again.losses["gone"])


def test_the_folder_holds_what_it_should_and_nothing_is_left_beside_it(stored: Path) -> None:
    assert sorted(p.name for p in stored.iterdir()) == [
        "features.safetensors",
        "manifest.json",
        "preview.png",
        "recipe.toml",
        "weights.safetensors",
    ]
    assert [p.name for p in stored.parent.iterdir()] == ["rex"]
    data = json.loads((stored / "manifest.json").read_text(encoding="utf-8"))
    assert data["schema"] == 1
    assert set(data["files"]) == {p.name for p in stored.iterdir()} - {"manifest.json"}


def test_without_features_tensors_or_source(
    tmp_path: Path, artifact: Personalization, catalogue: Catalogue
) -> None:
    bare = replace(
        artifact,
        features={},
        tensors={},
        versions={},
        recipe=replace(artifact.recipe, source=""),
    )
    save(bare, tmp_path / "bare")
    assert sorted(p.name for p in (tmp_path / "bare").iterdir()) == [
        "manifest.json",
        "weights.safetensors",
    ]
    again = load(tmp_path / "bare", catalogue=catalogue)
    assert (again.tensors, again.features, again.recipe.source) == ({}, {}, "")
    assert {"python", "pcs-core", "torch", "safetensors"} <= set(again.versions)


def test_saving_twice_gives_equal_bytes(tmp_path: Path, artifact: Personalization) -> None:
    save(artifact, tmp_path / "one")
    save(artifact, tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_an_artifact_may_be_moved_and_grow_files(stored: Path, catalogue: Catalogue) -> None:
    moved = stored.parent / "moved"
    shutil.move(stored, moved)
    (moved / "notes.txt").write_text("mine", encoding="utf-8")
    assert load(moved, catalogue=catalogue).subject == "rex"


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "features.safetensors", "recipe.toml", "preview.png"]
)
def test_damage_names_the_file(stored: Path, catalogue: Catalogue, name: str) -> None:
    file = stored / name
    content = file.read_bytes()
    for position in (0, len(content) // 2, len(content) - 1):
        flipped = bytearray(content)
        flipped[position] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(ArtifactError, match=f"{name} is damaged: its sha256"):
            load(stored, catalogue=catalogue)
    file.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=f"{name} is damaged"):
        load(stored, catalogue=catalogue)
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        load(stored, catalogue=catalogue)


def test_any_flipped_byte_of_the_manifest_is_refused(stored: Path, catalogue: Catalogue) -> None:
    file = stored / "manifest.json"
    content = file.read_bytes()
    for position in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[position] ^= 4
        file.write_bytes(flipped)
        with pytest.raises(ArtifactError):
            load(stored, catalogue=catalogue)
    file.write_bytes(content)
    load(stored, catalogue=catalogue)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff", b'{"schema": "1"}'])
def test_a_manifest_that_is_none(stored: Path, catalogue: Catalogue, content: bytes) -> None:
    (stored / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        load(stored, catalogue=catalogue)


def test_a_newer_schema_says_upgrade(stored: Path, catalogue: Catalogue) -> None:
    def newer(data: dict[str, Any]) -> None:
        data["schema"] = 2
        data["something_new"] = []

    rewrite(stored, newer)
    with pytest.raises(ArtifactError, match=r"newer version \(schema 2, .* upgrade pcs-core"):
        load(stored, catalogue=catalogue)


def test_a_technique_that_is_not_installed(stored: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"cannot be drawn here: it uses technique 'toy\.shift' of"
    ):
        load(stored, catalogue=Catalogue([]))


def test_an_unknown_field_or_a_wrong_type_is_damage(stored: Path, catalogue: Catalogue) -> None:
    rewrite(stored, lambda data: data.update(seed="seven"))
    with pytest.raises(ArtifactError, match="is damaged"):
        load(stored, catalogue=catalogue)


def test_a_manifest_may_not_lead_outside(stored: Path, catalogue: Catalogue) -> None:
    (stored.parent / "secret").write_bytes(b"")
    digest = hashlib.sha256(b"").hexdigest()
    rewrite(stored, lambda data: data["files"].update({"../secret": digest}))
    with pytest.raises(ArtifactError, match=r"a file outside its folder: '\.\./secret'"):
        load(stored, catalogue=catalogue)


def test_weights_that_are_no_safetensors_despite_the_digest(
    stored: Path, catalogue: Catalogue
) -> None:
    content = (stored / "weights.safetensors").read_bytes()[:-3]
    (stored / "weights.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    rewrite(stored, lambda data: data["files"].update({"weights.safetensors": digest}))
    with pytest.raises(ArtifactError, match=r"weights\.safetensors cannot be read"):
        load(stored, catalogue=catalogue)
    rewrite(stored, lambda data: data["files"].pop("weights.safetensors"))
    with pytest.raises(ArtifactError, match=r"names no weights\.safetensors"):
        load(stored, catalogue=catalogue)


def test_what_is_no_artifact(tmp_path: Path, catalogue: Catalogue) -> None:
    with pytest.raises(
        ArtifactError, match=r"gone does not exist\. Give a folder made by `pcs fit`"
    ):
        load(tmp_path / "gone", catalogue=catalogue)
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"weights\.bin is a file\. Give a folder made by"):
        load(tmp_path / "weights.bin", catalogue=catalogue)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match="folder is not an artifact: it has no manifest"):
        load(tmp_path / "folder", catalogue=catalogue)


def test_where_an_artifact_may_be_saved(
    tmp_path: Path, artifact: Personalization, catalogue: Catalogue
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    save(artifact, target)
    with pytest.raises(InputError, match=r"target is not empty: .* --overwrite"):
        save(artifact, target)
    save(replace(artifact, seed=8), target, overwrite=True)
    assert load(target, catalogue=catalogue).seed == 8
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "only.jpg").write_bytes(b"precious")
    with pytest.raises(InputError, match="holds no artifact, so it is not overwritten"):
        save(artifact, photos, overwrite=True)
    assert (photos / "only.jpg").read_bytes() == b"precious"
    with pytest.raises(InputError, match=r"only\.jpg is a file"):
        save(artifact, photos / "only.jpg", overwrite=True)
    with pytest.raises(InputError, match="cannot write"):
        save(artifact, photos / "only.jpg" / "x")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("name", ["../x", "a/b", "weights.safetensors", "", "..", "a\\b"])
def test_extra_files_have_plain_names_of_their_own(
    tmp_path: Path, artifact: Personalization, name: str
) -> None:
    with pytest.raises(InputError, match="cannot be the name of an extra file"):
        save(artifact, tmp_path / "out", extra_files={name: b""})
    assert not (tmp_path / "out").exists()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write more than ``size`` bytes to a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_is_one_error_and_leaves_the_old_artifact(
    stored: Path, artifact: Personalization, catalogue: Catalogue
) -> None:
    large = replace(artifact, seed=9, tensors={"toy.shift/a/b": torch.zeros(100_000)})
    with (
        files_of_at_most(50_000),
        pytest.raises(InputError, match=r"^cannot write .*rex: .*[Ff]ile too large"),
    ):
        save(large, stored, overwrite=True)
    assert [p.name for p in stored.parent.iterdir()] == ["rex"]
    assert load(stored, catalogue=catalogue).seed == 7
    with files_of_at_most(50_000), pytest.raises(InputError, match="cannot write"):
        save(large, stored.parent / "new")
    assert [p.name for p in stored.parent.iterdir()] == ["rex"]


def test_a_setting_that_was_not_there_yet_means_what_was_done_then() -> None:
    """A stored recipe without the form of the fusion is of the single MLP, whatever the default is now."""
    from pcs_core.catalogue import catalogue
    from pcs_core.storage.artifact import as_meant

    document: Any = {
        "recipe": {"id": "x"},
        "use": [{"technique": "fusion.token_output", "hidden": 8}],
    }
    (use,) = as_meant(document, catalogue())["use"]
    assert use == {"technique": "fusion.token_output", "hidden": 8, "form": "single"}
    said = {**document, "use": [{**document["use"][0], "form": "postfuse"}]}
    assert as_meant(said, catalogue()) == said
    assert "form" not in document["use"][0]


def test_the_same_tensors_and_metadata_make_the_same_bytes(tmp_path: Path) -> None:
    """The library orders metadata by chance: an export would differ from its repetition."""
    written = set()
    for number in range(12):
        file = tmp_path / f"{number}.safetensors"
        metadata = {
            word: word.upper() for word in "a quick \x1b[2J brown \u00e9\U0001f600 fox".split()
        }
        write_tensors(file, {"a": torch.ones(2), "b": torch.zeros(1)}, metadata)
        written.add(file.read_bytes())
        tensors, read = read_tensors(file)
        assert list(read) == sorted({"format": "pt", **metadata})
        assert read == {"format": "pt", **metadata}
        assert torch.equal(tensors["a"], torch.ones(2))
    assert len(written) == 1
