"""Of any folder every file is used, named as left out, or the folder is refused with the file's name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pcs_cli.main import main
from pcs_core.errors import InputError
from pcs_folders.listing import list_folder
from pcs_folders.subjects import read_listing

PICTURES = ("a.png", "b.jpg", "C.PNG", "d_mask.png", "é.png", "sks dog.webp")
BESIDE = (
    *("a.mask.png", "a_mask.png", "a-masklabel.png", "a.mask.dog.png", "b.mask.png", "x.mask.png"),
    *("masks/a.png", "conditioning/b.png", "mask/q.png", "a.txt", "b.txt", "a.caption", "x.txt"),
    *("metadata.jsonl", "metadata.csv", "a.json", "b.json", "README.md", "notes.doc", ".hidden"),
    *("Thumbs.db", "a.npz", "more/z.png", "10_sks dog/p.png", "dog/q.png", "clip.mp4", "e.heic"),
    *("moving.gif", "subject.toml", "A.TXT", "empty.png", "a.png.bak", "LICENSE.txt"),
)
CONTENT = {
    "metadata.jsonl": '{"file_name": "a.png", "text": "a dog"}\n',
    "metadata.csv": "file_name,text\na.png,a dog\n",
    "a.json": '{"boxes": [[0, 0, 1, 1]]}',
    "b.json": '{"points": [[0.5, 0.5]]}',
    "subject.toml": '[[concept]]\ntoken = "<dog>"\nnoun = "dog"\n',
}


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name
    if name in CONTENT:
        path.write_text(CONTENT[name], "utf-8")
    elif name == "empty.png":
        path.touch()
    elif name == "moving.gif":
        frames = [Image.new("P", (12, 12), n) for n in (1, 2)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif path.suffix.lower() in (".png", ".jpg", ".webp"):
        is_mask = "mask" in str(path.relative_to(path.parent.parent)) or "conditioning" in str(path)
        image = Image.new("L" if is_mask else "RGB", (12, 12), 0 if is_mask else (90, 140, 60))
        image.paste(255 if is_mask else (200, 40, 30), (3, 3, 9, 9))
        image.save(path)
    else:
        path.write_text("a dog on the beach", "utf-8")


def made(names: frozenset[str], root: Path) -> Path:
    folder = root / "rex"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in sorted(names):
        write(folder / name)
    return folder


FOLDERS = st.builds(
    lambda pictures, beside: pictures | beside,
    st.frozensets(st.sampled_from(PICTURES), max_size=4),
    st.frozensets(st.sampled_from(BESIDE), max_size=6),
)


@given(names=FOLDERS)
def test_every_file_has_its_use_or_the_folder_is_refused(
    names: frozenset[str], tmp_path: Path
) -> None:
    folder = made(names, tmp_path)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    try:
        listing = list_folder(folder, noun="dog", token="<dog>")
        reading = read_listing(listing)
    except InputError as error:
        assert str(folder) in str(error)
        return
    finally:
        assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    subject, said = reading.subject, {use.file for use in reading.uses}
    for name in names:
        inside = name.split("/")
        assert name in said or (len(inside) > 1 and inside[0] in said), name
    assert len(subject.images) == len(subject.files) >= 1
    for row in subject.masks.values():
        assert len(row) == len(subject.images)
        for mask, image in zip(row, subject.images, strict=True):
            assert mask is None or (
                mask.shape[-2:] == image.shape[-2:] and 0 < float(mask.mean()) <= 1
            )
    if "a.mask.png" in names and "a.png" in names:
        region = torch.zeros(12, 12)
        region[3:9, 3:9] = 1
        assert torch.equal(subject.masks["dog"][subject.files.index("a.png")][0], region)
    if "a.txt" in names and "a.png" in names:
        assert subject.captions[subject.files.index("a.png")] == "a dog on the beach"


@given(names=FOLDERS)
def test_a_dry_run_ends_well_and_writes_nothing(
    names: frozenset[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command: exit code 0 with each visible file named, or 2 with one message."""
    folder = made(names, tmp_path)
    words = ["fit", "textual-inversion", str(folder), "--noun", "dog", "--token", "<dog>"]
    out = tmp_path / "out"
    code = main([*words, "--backbone", "tiny", "--out", str(out), "--dry-run", "--json"])
    printed = capsys.readouterr()
    assert code in (0, 2), printed.err
    assert not out.exists()
    assert "Traceback" not in printed.err
    assert "internal error" not in printed.err
    if code == 2:
        assert str(folder) in printed.err
        return
    text = json.dumps(json.loads(printed.out), ensure_ascii=False)
    for name in names:
        assert name in text or name.split("/")[0] in text, name
