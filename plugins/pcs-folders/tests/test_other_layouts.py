"""Folders as other trainers lay them out: read, or refused, or said to be left out; never in silence."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from unicodedata import normalize

import pytest
from PIL import Image

from pcs_core.errors import InputError
from pcs_folders.listing import list_folder
from pcs_folders.subjects import FolderReading, load_subject, read_listing

TWO = (
    '[[concept]]\nname="dog"\ntoken="<rex>"\nnoun="dog"\n[[concept]]\ntoken="<ball>"\nnoun="ball"\n'
)


def reading(folder: Path, two: bool = False) -> FolderReading:
    if two:
        (folder / "subject.toml").write_text(TWO, encoding="utf-8")
        return read_listing(list_folder(folder, noun=None, token=None))
    return read_listing(list_folder(folder, noun="dog", token="<rex>"))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (9, 20, 30)).save(path)


def mask(path: Path, size: tuple[int, int] = (8, 6), level: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", size, 0)
    image.paste(level, (1, 1, size[0] // 2, size[1] // 2))
    image.save(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.caption", "\na dog  on sand\n"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "a dog on sand"}\n\n'),
        ("metadata.csv", 'file_name,prompt\na.png,"a dog on sand"\n'),
    ],
)
def test_captions_of_other_trainers_are_read(good: Path, name: str, text: str) -> None:
    picture(good / "b.png")
    (good / name).write_text(text, encoding="utf-8")
    assert reading(good).subject.captions == ("a dog on sand", None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a dog on sand\n\n  a dog \r\na dog, wet"),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": ["a dog on sand", " a dog", "", "a dog, wet"]}',
        ),
    ],
)
def test_several_captions_of_a_picture(good: Path, name: str, text: str) -> None:
    picture(good / "b.png")
    (good / name).write_text(text, encoding="utf-8")
    read = reading(good)
    assert read.subject.captions == ("a dog on sand", None)
    assert read.subject.alternatives == (("a dog", "a dog, wet"), ())
    assert "one is drawn each time" in read.notes[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": "x", "a.caption": "y"}, "a.txt and a.caption are both its caption"),
        ({"b.caption": "x"}, "b.caption is the caption of no image"),
        ({"metadata.jsonl": "{"}, "metadata.jsonl:1 is not valid JSON"),
        ({"metadata.jsonl": "[1]"}, "metadata.jsonl:1: a line holds one JSON object"),
        ({"metadata.jsonl": '{"text": "x"}'}, "metadata.jsonl:1: no 'file_name'"),
        (
            {"metadata.jsonl": '{"file_name": "b.png", "text": "x"}'},
            "metadata.jsonl:1: there is no picture 'b.png', did you mean 'a.png'",
        ),
        (
            {"metadata.jsonl": '{"file_name": "a.png", "text": ["x", 3]}'},
            "text is a caption, as text, or a list of them, got ['x', 3]",
        ),
        (
            {"metadata.jsonl": '{"file_name": "a.png", "text": "x", "caption": "y"}'},
            "text and caption are both a caption",
        ),
        (
            {"metadata.csv": "file_name,text\na.png,x\na.png,y\n"},
            "metadata.csv:3: 'a.png' has a caption above already",
        ),
        (
            {"metadata.csv": "file_name,text\na.png,x,y\n"},
            "metadata.csv:2: more cells than columns",
        ),
        (
            {"a.txt": "x", "metadata.csv": "file_name,text\na.png,x\n"},
            "metadata.csv and a.txt are both the caption of a.png",
        ),
    ],
)
def test_captions_that_cannot_be_told_apart(
    good: Path, files: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        (good / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)):
        reading(good)


@pytest.mark.parametrize(
    "name",
    [
        "a_mask.png",
        "a-mask.png",
        "a-masklabel.png",
        "a_mask.dog.png",
        "masks/a.png",
        "mask/a.dog.png",
        "masks/dog/a.png",
        "conditioning/a.png",
        "masks/a_mask.png",
        "a_matte.png",
        "a.alpha.png",
        "a mask.png",
        "a_mask0.png",
        "mask_a.png",
        "mattes/a.png",
    ],
)
def test_masks_under_the_names_of_other_tools(good: Path, name: str) -> None:
    picture(good / "b.png")
    mask(good / name)
    read = reading(good)
    assert read.subject.files == ("a.png", "b.png")
    first, second = read.subject.masks["dog"]
    assert first is not None
    assert int(first.sum()) == 6
    assert second is None
    assert {u.file: u.use for u in read.uses}[name] == "mask of 'dog' in a.png"


def test_a_picture_named_as_a_mask_is_said_to_be_a_picture(good: Path) -> None:
    picture(good / "ski_mask.png")
    assert reading(good).subject.files == ("a.png", "ski_mask.png")
    (note,) = reading(good).notes
    assert note.startswith("ski_mask.png: picture (named as a mask, but there is no picture 'ski'")


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("a-condlabel.png", "named as what belongs to a.png"),
        ("a_depth.png", "named as what belongs to a.png"),
        ("mask.png", "does not say of which picture"),
    ],
)
def test_a_picture_that_may_be_none_is_said(good: Path, name: str, note: str) -> None:
    picture(good / name)
    assert any(line.startswith(name) and note in line for line in reading(good).notes)


def test_a_black_and_white_picture_is_said_to_be_read_as_a_picture(good: Path) -> None:
    mask(good / "b.png")
    assert reading(good).subject.files == ("a.png", "b.png")
    assert "b.png: picture (it is black and white alone, as masks are" in reading(good).notes[0]


def test_names_in_either_normal_form_are_alike(folder: Path) -> None:
    """macOS writes é as two characters, other systems as one."""
    two, one = normalize("NFD", "é"), normalize("NFC", "é")
    picture(folder / f"{two}.png")
    picture(folder / f"{two}2.png")
    mask(folder / f"{one}.mask.png")
    (folder / f"{one}.txt").write_text("a dog", encoding="utf-8")
    (folder / f"{one}.json").write_text('{"points": [[0.5, 0.5]]}', encoding="utf-8")
    line = json.dumps({"file_name": f"./{one}2.png", "text": "a wet dog"})
    (folder / "metadata.jsonl").write_text(line, encoding="utf-8")
    subject = reading(folder).subject
    assert sorted(subject.captions, key=str) == ["a dog", "a wet dog"]
    assert [m is not None for m in subject.masks["dog"]] == [
        f == f"{two}.png" for f in subject.files
    ]
    assert {"points": [[0.5, 0.5]]} in subject.extra


def test_what_speaks_of_a_stem_speaks_of_all_its_pictures(good: Path) -> None:
    picture(good / "a.bmp")
    mask(good / "a.mask.png")
    (good / "a.txt").write_text("a dog", encoding="utf-8")
    read = reading(good)
    assert read.subject.captions == ("a dog", "a dog")
    assert all(m is not None for m in read.subject.masks["dog"])
    uses = {u.file: u.use for u in read.uses}
    assert uses["a.txt"] == "caption of a.bmp and a.png"
    assert uses["a.mask.png"] == "mask of 'dog' in a.bmp and a.png"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.exr", b"x", "x.exr: .exr pictures are not read"),
        ("x.tga", b"x", "x.tga: .tga pictures are not read"),
        ("x.png", b"\xff\x0a____", "x.png holds JPEG XL, which is not read"),
        ("x.png", b"<!DOCTYPE html><html>", "x.png holds a page of HTML or XML"),
        ("x.png", b"version https://git-lfs.github.com/spec/v1\n", "x.png holds Git LFS's pointer"),
        ("x.tif", b"II*\0" + bytes(20), "x.tif holds a TIFF of a kind"),
        ("a.json", b'{"caption": "x"}', "a caption lies beside its picture as a.txt"),
        ("a.txt", "a dog".encode("utf-16-le"), "a.txt is no text, or UTF-16: byte 1 of it is 0"),
        (
            "metadata.csv",
            b"file_name,text,text\na.png,x,y\n",
            "the column 'text' appears twice",
        ),
    ],
)
def test_a_refusal_names_the_true_cause(
    good: Path, name: str, content: bytes, message: str
) -> None:
    (good / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        reading(good)


def test_archives_are_named_as_archives(folder: Path, good: Path) -> None:
    (good / "more.zip").write_bytes(b"PK")
    assert reading(good).notes == (
        "more.zip: left out (an archive: unpack it, where it holds pictures)",
    )
    with pytest.raises(InputError, match="is an archive: unpack it, and give the folder"):
        reading(good / "more.zip")
    (good / "a.png").unlink()
    with pytest.raises(InputError, match=r"it holds more\.zip: unpack it first"):
        reading(folder)


@pytest.mark.parametrize("name", ["b-masklabel.png", "masks/b.png", "conditioning/b.png"])
def test_a_mask_of_no_picture_is_refused(good: Path, name: str) -> None:
    mask(good / name)
    with pytest.raises(InputError, match="is the mask of no image"):
        reading(good)


def test_an_empty_mask_never_means_everything(good: Path) -> None:
    Image.new("L", (8, 6)).save(good / "a.mask.png")
    with pytest.raises(InputError, match=r"a\.mask\.png is empty .* paint the subject white"):
        reading(good)


def test_of_several_concepts_one_may_be_absent_but_not_all(good: Path) -> None:
    Image.new("L", (8, 6)).save(good / "a.mask.dog.png")
    mask(good / "a.mask.ball.png")
    dog = reading(good, two=True).subject.masks["dog"][0]
    assert dog is not None
    assert not bool(dog.any())
    Image.new("L", (8, 6)).save(good / "a.mask.ball.png")
    with pytest.raises(InputError, match="is empty"):
        reading(good, two=True)


def test_a_scaled_mask_is_read_and_said_another_shape_is_refused(good: Path) -> None:
    mask(good / "a.mask.png", (16, 12))
    read = reading(good)
    values = read.subject.masks["dog"][0]
    assert values is not None
    assert tuple(values.shape) == (1, 6, 8)
    assert read.notes == (
        "a.mask.png: mask of 'dog' in a.png (16 x 12, scaled to the 8 x 6 of its picture)",
    )
    mask(good / "a.mask.png", (6, 8))
    with pytest.raises(InputError, match=r"is 6 x 8, but a\.png is 8 x 6: .* EXIF orientation"):
        reading(good)


def test_a_folder_with_repeats_in_its_name_is_read(folder: Path) -> None:
    for n in range(3):
        picture(folder / "10_sks dog" / f"{n}.png")
    (folder / "10_sks dog" / "1.txt").write_text("on sand", encoding="utf-8")
    mask(folder / "10_sks dog" / "conditioning" / "2.png")
    read = reading(folder)
    assert read.subject.files == tuple(f"10_sks dog/{n}.png" for n in range(3))
    assert read.subject.captions == (None, "on sand", None)
    assert [m is None for m in read.subject.masks["dog"]] == [True, True, False]
    assert read.notes[0].startswith(
        "10_sks dog: folder of 3 pictures (each is drawn 10 times as often as one of 1_"
    )


def test_repeats_are_how_often_a_picture_is_drawn(folder: Path) -> None:
    for name in ("10_sks dog/1.png", "10_sks dog/2.png", "4_reg dog/1.png"):
        picture(folder / name)
    read = reading(folder)
    assert read.subject.files == ("10_sks dog/1.png", "10_sks dog/2.png", "4_reg dog/1.png")
    assert read.subject.repeats == (5, 5, 2)
    (folder / "4_reg dog").rename(folder / "10_reg dog")
    assert reading(folder).subject.repeats == ()
    (folder / "10_reg dog").rename(folder / "0_reg dog")
    with pytest.raises(
        InputError, match="0_reg dog: repeats 0: move it away, or name it 1_reg dog"
    ):
        reading(folder)


@pytest.mark.parametrize("folders", [("dog", "ball"), ("10_sks dog", "3_my ball")])
def test_a_folder_per_concept_says_which_picture_shows_which(
    folder: Path, folders: tuple[str, str]
) -> None:
    for name in folders:
        picture(folder / name / "1.png")
        picture(folder / name / "2.png")
    subject = reading(folder, two=True).subject
    shown = {f: extra["concepts"] for f, extra in zip(subject.files, subject.extra, strict=True)}
    assert shown == {
        **{f"{folders[0]}/{n}.png": ["dog"] for n in (1, 2)},
        **{f"{folders[1]}/{n}.png": ["ball"] for n in (1, 2)},
    }


def test_a_folder_with_repeats_of_no_concept_is_refused(folder: Path) -> None:
    picture(folder / "10_sks cat" / "1.png")
    with pytest.raises(InputError, match="10_sks cat: which concept is this"):
        reading(folder, two=True)


def test_pictures_that_lie_deeper_are_named(folder: Path) -> None:
    picture(folder / "images" / "x.png")
    with pytest.raises(InputError, match="pictures lie in images: give that folder"):
        reading(folder)
    picture(folder / "img" / "10_sks dog" / "x.png")
    with pytest.raises(InputError, match="pictures lie in images, img/10_sks dog: give that"):
        reading(folder)


def test_the_json_says_which_concepts_a_picture_shows(good: Path) -> None:
    (good / "a.json").write_text('{"concepts": ["ball"]}', encoding="utf-8")
    assert reading(good, two=True).subject.extra == ({"concepts": ["ball"]},)
    (good / "a.json").write_text('{"concepts": ["bal"]}', encoding="utf-8")
    with pytest.raises(InputError, match="no concept 'bal', did you mean 'ball'"):
        reading(good, two=True)


def test_every_file_is_accounted_for_and_what_is_left_out_is_said(
    good: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("notes.md", "a.npz", "walk.mp4", "README.txt", ".hidden"):
        (good / name).write_text("x", encoding="utf-8")
    picture(good / "more" / "1.png")
    (good / "a.txt").write_text("one\ntwo\n", encoding="utf-8")
    read = reading(good)
    assert [use.file for use in read.uses] == sorted(p.name for p in good.iterdir())
    assert set(read.notes) == {
        "a.npz: left out (.npz: no picture, caption, mask or marks)",
        "a.txt: caption of a.png (its 2 captions are alternatives: one is drawn each time)",
        "more: left out (a folder with 1 pictures)",
        "notes.md: left out (.md: no picture, caption, mask or marks)",
        "walk.mp4: left out (a clip among still pictures)",
    }
    with caplog.at_level(logging.WARNING):
        load_subject(good, noun="dog", token="<rex>")
    assert {record.getMessage().partition(": ")[2] for record in caplog.records} == set(read.notes)


def test_a_transparent_picture_is_its_own_mask_and_says_so(good: Path) -> None:
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(good / "a.png")
    uses = {u.file: u for u in reading(good).uses}
    assert uses["a.png"].use == "picture, and by its transparency the mask of 'dog'"
    assert not uses["a.png"].is_said
    assert "is no mask: there are several concepts" in reading(good, two=True).notes[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 0.5 0.5 0.2 0.2\n", "is no caption but numbers, as YOLO writes boxes"),
        (
            "a dog\nSteps: 20, Sampler: Euler a, CFG scale: 7",
            "is no caption but settings of a drawing",
        ),
        ("a dog\nNegative prompt: ugly", "is no caption but settings of a drawing"),
    ],
)
def test_what_other_programs_write_is_no_caption(tmp_path: Path, text: str, said: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(text, "utf-8")
    with pytest.raises(InputError, match=rf"a\.txt: .*{said}"):
        list_folder(tmp_path, noun="dog", token="<dog>")


@pytest.mark.parametrize("mark", ["[trigger]", "[name]", "{dog|puppy}", "__animals/dogs__"])
def test_marks_that_others_replace_are_said(tmp_path: Path, mark: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(f"a {mark} [sitting] on 3 5 grass", "utf-8")
    (use,) = [u for u in list_folder(tmp_path, noun="dog", token="<dog>").uses if u.file == "a.txt"]
    assert use.note == f"{mark} is read as it is written: nothing is put in its place"


def test_a_table_without_names_says_what_it_has(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name;text\na.png;a dog\n", "utf-8")
    with pytest.raises(InputError, match=r"it has 'file_name;text'.: divide its columns by commas"):
        list_folder(tmp_path, noun="dog", token="<dog>")


@pytest.mark.parametrize("name", ["12:30", "new\nline"])
def test_a_name_that_may_not_be_is_said_as_it_is(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / f"{name}.txt").write_text("a dog", "utf-8")
    with pytest.raises(InputError, match=r"holds a character that names may not have .* rename it"):
        list_folder(tmp_path, noun="dog", token="<dog>")


@pytest.mark.parametrize(
    ("noun", "name"),
    [("St. Bernard", "St-Bernard"), ("AC/DC guitar", "AC-DC-guitar"), ("teddy bear", "teddy-bear")],
)
def test_any_noun_names_its_concept_and_mask(tmp_path: Path, noun: str, name: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (2, 2, 6, 6))
    mask.save(tmp_path / f"a.mask.{name}.png")
    listing = list_folder(tmp_path, noun=noun, token="<x>")
    assert (listing.concepts[0].name, listing.concepts[0].noun) == (name, noun)
    assert (tmp_path / "a.png", name) in listing.masks


@pytest.mark.parametrize("noun", ["a dog", "The dog"])
def test_an_article_in_front_of_a_noun_is_refused(tmp_path: Path, noun: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="leave out the article: 'dog'"):
        list_folder(tmp_path, noun=noun, token="<x>")
