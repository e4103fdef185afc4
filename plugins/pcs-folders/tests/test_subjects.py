"""Subject folders: what is read from them, and what is refused with the file's name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_core.errors import InputError
from pcs_folders.subjects import load_subject

TWO = """
[[concept]]
name = "dog"
token = "<rex>"
noun = "dog"

[[concept]]
token = "<cap>"
noun = "red hat"
kind = "clothing"
"""


def load(folder: Path) -> object:
    return load_subject(folder, noun="dog", token="<rex>")


def picture(path: Path, size: tuple[int, int] = (8, 6), colour: int = 9) -> None:
    Image.new("RGB", size, (colour, 20, 30)).save(path)


def test_images_in_order_of_name_with_what_lies_beside_them(folder: Path) -> None:
    picture(folder / "b.JPG", (5, 7))
    picture(folder / "a.png", (8, 6))
    picture(folder / "c.1.webp", (3, 3))
    (folder / "a.txt").write_text("\ufeffa photo of   <rex>  \n", encoding="utf-8")
    (folder / "b.txt").write_text("  \n", encoding="utf-8")
    (folder / "c.1.txt").write_text("in the snow, café", encoding="utf-8")
    (folder / "a.json").write_text('{"boxes": [[0, 0, 0.5, 1]], "points": []}', encoding="utf-8")
    for ignored in (".hidden.png", "notes.md", "README.txt", ".DS_Store"):
        (folder / ignored).write_text("no image", encoding="utf-8")
    (folder / "more").mkdir()
    subject = load_subject(folder, noun="dog", token="<rex>")
    assert subject.name == "rex"
    assert subject.files == ("a.png", "b.JPG", "c.1.webp")
    assert [tuple(image.shape) for image in subject.images] == [(3, 6, 8), (3, 7, 5), (3, 3, 3)]
    assert subject.captions == ("a photo of <rex>", None, "in the snow, café")
    assert subject.extra == ({"boxes": [[0, 0, 0.5, 1]], "points": []}, {}, {})
    assert subject.masks == {}
    (concept,) = subject.concepts
    assert (concept.name, concept.token, concept.noun, concept.kind) == (
        "dog",
        "<rex>",
        "dog",
        "object",
    )


def test_a_relative_folder_takes_its_real_name(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(good)
    assert load_subject(".", noun="dog", token="<rex>").name == "rex"


def test_masks_by_file_and_by_transparency(good: Path) -> None:
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[:3] = 255
    Image.fromarray(mask).save(good / "a.mask.png")
    pixels = np.full((2, 2, 4), 255, dtype=np.uint8)
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(good / "b.png")
    picture(good / "c.png")
    subject = load_subject(good, noun="dog", token="<rex>")
    assert subject.files == ("a.png", "b.png", "c.png")
    first, second, third = subject.masks["dog"]
    assert first is not None
    assert torch.equal(first[0], torch.from_numpy(mask / 255).float())
    assert second is not None
    assert second.flatten().tolist() == [0.0, 1.0, 1.0, 1.0]
    assert third is None


def test_a_mask_file_wins_over_transparency(folder: Path) -> None:
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(folder / "a.png")
    Image.new("L", (2, 2), 255).save(folder / "a.mask.dog.png")
    (mask,) = load_subject(folder, noun="dog", token="<rex>").masks["dog"]
    assert mask is not None
    assert bool((mask == 1).all())


def test_several_concepts(good: Path) -> None:
    (good / "subject.toml").write_text(TWO, encoding="utf-8")
    Image.new("L", (8, 6), 255).save(good / "a.mask.red-hat.png")
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(good / "b.png")
    subject = load_subject(good)
    assert [(c.name, c.token, c.noun, c.kind) for c in subject.concepts] == [
        ("dog", "<rex>", "dog", "object"),
        ("red-hat", "<cap>", "red hat", "clothing"),
    ]
    assert list(subject.masks) == ["red-hat"]
    assert subject.masks["red-hat"][1] is None


def test_arguments_win_over_a_file_of_one_concept(good: Path) -> None:
    (good / "subject.toml").write_text(
        '[[concept]]\ntoken = "<rex>"\nnoun = "dog"\nkind = "pet"\n', encoding="utf-8"
    )
    concept = load_subject(good, token="<other>").concept
    assert (concept.token, concept.noun, concept.kind) == ("<other>", "dog", "pet")


@pytest.mark.parametrize(
    ("noun", "token", "message"),
    [
        (None, None, "give --noun and --token"),
        ("dog", None, "give --token"),
        (None, "<rex>", "give --noun"),
        ("dog", "dog", "the token 'dog' is the noun itself"),
        ("dog", "Dog", "the token 'Dog' is the noun itself"),
        ("dog", "", "token '': give one word"),
        ("dog", "my dog", "token 'my dog': give one word without spaces"),
        ("dog", "<rex>\n", "without spaces"),
        ("dog", "a\u200bb", "without spaces"),
        ("dog", "a/b", "leave out '/'"),
        ("  ", "<rex>", "noun '  ': give the class"),
        ("", "<rex>", "noun '': give the class"),
        ("...", "<rex>", "concept name '...'"),
    ],
)
def test_nouns_and_tokens_that_cannot_be_used(
    good: Path, noun: str | None, token: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_subject(good, noun=noun, token=token)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[[concept]\n", "subject.toml is not valid TOML"),
        ("[[concept]]\nnoun = 'é'".encode("latin-1"), "subject.toml is not UTF-8"),
        (b"", "write a [[concept]] table"),
        (b"concept = 3", "write a [[concept]] table"),
        (b"[concept]\ntoken = 'a'", "write a [[concept]] table"),
        (b"[[concept]]\n[[concepts]]", "unknown table or key 'concepts'"),
        (b"[[concept]]\nnoun = 'dog'", "concept 1 has no token"),
        (b"[[concept]]\ntoken = '<a>'", "concept 1 has no noun"),
        (b"[[concept]]\ntoken = 3\nnoun = 'dog'", "concept 1: token must be text, got 3"),
        (
            b"[[concept]]\ntokn = '<a>'\nnoun = 'dog'",
            "concept 1: unknown key 'tokn', did you mean 'token'?",
        ),
        (b"[[concept]]\ntoken = 'dog'\nnoun = 'dog'", "is the noun itself"),
        (
            b"[[concept]]\ntoken='<a>'\nnoun='dog'\n[[concept]]\ntoken='<b>'\nnoun='dog'",
            "two concepts are called 'dog'",
        ),
        (
            b"[[concept]]\ntoken='<a>'\nnoun='dog'\n[[concept]]\ntoken='<a>b'\nnoun='cat'",
            "contain one another",
        ),
        (b"[[concept]]\ntoken='<a>'\nnoun='dog'\nname='x/y'", "concept name 'x/y'"),
    ],
)
def test_subject_toml_is_strict(good: Path, text: bytes, message: str) -> None:
    (good / "subject.toml").write_bytes(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_subject(good)
    assert str(good / "subject.toml") in str(caught.value)


def test_arguments_beside_several_concepts_are_refused(good: Path) -> None:
    (good / "subject.toml").write_text(TWO, encoding="utf-8")
    with pytest.raises(InputError, match="names 2 concepts: leave out --noun and --token"):
        load_subject(good, noun="dog")


def test_folders_without_a_picture(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such does not exist"):
        load(tmp_path / "no-such")
    with pytest.raises(InputError, match=r"rex has no images .*: it is empty"):
        load(folder)
    (folder / "photo.pdf").write_bytes(b"x")
    with pytest.raises(InputError, match=r"rex has no images .*: it holds photo\.pdf"):
        load(folder)
    file = tmp_path / "a.png"
    picture(file)
    with pytest.raises(InputError, match=r"a\.png is a file: give the folder"):
        load(file)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.png", b""),
        ("bad.jpg", b"words"),
        ("bad.TIFF", b"II*\0\x08\0\0\0"),
        ("bad.gif", b"GIF89a"),
    ],
)
def test_one_bad_image_beside_good_ones_is_refused(good: Path, name: str, content: bytes) -> None:
    load(good)
    (good / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(good / name))):
        load(good)


@pytest.mark.parametrize("name", ["x.AVIFS", "photo.svg", "raw.cr2", "raw.DNG"])
def test_a_format_that_is_not_read_is_refused(good: Path, name: str) -> None:
    (good / name).write_bytes(b"x")
    message = re.escape(str(good / name)) + ".*convert it to PNG or JPEG, or move it away"
    with pytest.raises(InputError, match=message):
        load(good)


def test_jfif_is_jpeg(folder: Path) -> None:
    Image.new("RGB", (8, 6), (10, 20, 30)).save(folder / "a.jfif", format="JPEG")
    assert load_subject(folder, noun="dog", token="<rex>").files == ("a.jfif",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aa.txt", "aa.txt is the caption of no image, did you mean 'a'? Rename it"),
        ("a.png.txt", "a.png.txt is the caption of no image"),
        ("aa.json", "aa.json is the json of no image, did you mean 'a'? Rename it"),
        ("a.TXT", "a.TXT: rename it a.txt"),
    ],
)
def test_what_belongs_to_no_image_is_refused(good: Path, name: str, message: str) -> None:
    (good / name).write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)):
        load(good)


@pytest.mark.parametrize("name", ["README.txt", "LICENSE-icons.txt", "licence.json", "Notice.txt"])
def test_texts_about_the_folder_are_allowed(good: Path, name: str) -> None:
    (good / name).write_text("no caption", encoding="utf-8")
    load(good)


def test_masks_that_do_not_fit(good: Path) -> None:
    def refused(name: str, message: str, size: tuple[int, int] = (8, 6)) -> None:
        Image.new("L", size, 255).save(good / name)
        with pytest.raises(InputError, match=message):
            load(good)
        (good / name).unlink()

    refused("a.mask.png", r"a\.mask\.png is 6 x 8, but a\.png is 8 x 6", (6, 8))
    refused("a.mask.jpg", r"a\.mask\.jpg: a mask is a PNG file")
    refused("aa.mask.png", r"aa\.mask\.png is the mask of no image, did you mean 'a'")
    refused("a.mask.dgo.png", r"a\.mask\.dgo\.png: no concept 'dgo', did you mean 'dog'")
    Image.new("L", (8, 6)).save(good / "a.mask.png")
    refused("a.mask.dog.png", "are both the mask of 'dog'")
    (good / "a.mask.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.mask\.png is empty"):
        load(good)


def test_a_mask_without_a_concept_among_several_is_refused(good: Path) -> None:
    (good / "subject.toml").write_text(TWO, encoding="utf-8")
    Image.new("L", (8, 6)).save(good / "a.mask.png")
    with pytest.raises(InputError, match=r"rename it a\.mask\.<concept>\.png with one of dog, red"):
        load_subject(good)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "ein\ncafé".encode("latin-1"), "a.txt is not UTF-8 text: byte 7 (0xE9, line 2)"),
        ("a.txt", b"\xef\xbb\xbfdog\xff", "a.txt is not UTF-8 text: byte 6 (0xFF, line 1)"),
        ("a.txt", "dog".encode("utf-16"), "a.txt is not UTF-8 text but UTF-16"),
        ("a.json", b"{", "a.json is not valid JSON"),
        ("a.json", b'{"\xff', "a.json is not UTF-8 text: byte 2 (0xFF, line 1)"),
        ("a.json", b"[" * 100_000, "a.json: line 1: nested more than 48 deep"),
        ("a.json", b'{"boxes": [NaN]}', "a.json is not valid JSON: NaN is no number"),
        ("a.json", b"[1]", "a.json holds no JSON object"),
        ("a.json", b'{"box": []}', "a.json: unknown key 'box', did you mean 'boxes'?"),
        ("a.json", b'{"boxes": 3}', "a.json: boxes must be a list"),
    ],
)
def test_captions_and_json_that_cannot_be_read(
    good: Path, name: str, content: bytes, message: str
) -> None:
    (good / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        load(good)


def test_a_photograph_is_not_held_at_its_full_size(folder: Path) -> None:
    picture(folder / "a.png", (4200, 2800))
    bound = load_subject(folder, noun="dog", token="<rex>").images[0]
    assert tuple(bound.shape) == (3, 2048, 3072)
    whole = load_subject(folder, noun="dog", token="<rex>", size=None).images[0]
    assert tuple(whole.shape) == (3, 2800, 4200)
