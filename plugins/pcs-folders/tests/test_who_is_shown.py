"""Which picture shows which of several concepts, by all that a folder may say, and what is said of doubts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcs_core import load_subject
from pcs_core.errors import InputError
from pcs_engine.doubts import doubts
from pcs_engine.shown import shown_concepts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, the second of which is the cat's by its caption."""
    for name in ("1", "2"):
        pixels = np.random.default_rng(int(name)).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "2.txt").write_text("a cat")
    concepts(tmp_path, "dog", "cat")
    return tmp_path


def concepts(folder: Path, *nouns: str) -> None:
    tables = (f'[[concept]]\ntoken = "<{n.replace(" ", "-")}>"\nnoun = "{n}"\n' for n in nouns)
    (folder / "subject.toml").write_text("".join(tables))


def mask(path: Path) -> None:
    image = Image.new("L", (40, 32), 0)
    image.paste(255, (4, 4, 20, 20))
    image.save(path)


def shown(folder: Path, index: int = 0) -> list[str]:
    return [c.name for c in shown_concepts(load_subject(folder), index)]


@pytest.mark.parametrize("word", ["dog", "Dog", "<dog>", "DOG"])
def test_a_json_names_it_by_name_noun_or_token(folder: Path, word: str) -> None:
    (folder / "1.json").write_text(json.dumps({"concepts": [word]}))
    assert shown(folder) == ["dog"]
    assert doubts(load_subject(folder)) == []
    (folder / "1.json").write_text(json.dumps({"concepts": ["bird"]}))
    with pytest.raises(InputError, match="no concept 'bird'"):
        load_subject(folder)


@pytest.mark.parametrize("name", ["1.mask.DOG.png", "1.mask.dog.png", "masks/Dog/1.png"])
def test_a_mask_names_it_in_any_case(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    mask(folder / name)
    assert shown(folder) == ["dog"]


def test_a_box_names_it_by_its_phrase(folder: Path) -> None:
    (folder / "1.json").write_text('{"boxes": [{"phrase": "<dog>", "box": [0, 0, 0.5, 1]}]}')
    assert shown(folder) == ["dog"]


def test_a_noun_inside_another_is_not_shown(folder: Path) -> None:
    concepts(folder, "dog", "hot dog", "cat")
    (folder / "1.txt").write_text("a hot  dog")
    assert shown(folder) == ["hot-dog"]
    (folder / "1.txt").write_text("a dog eats a Hot Dog, no <my-cat>")
    assert shown(folder) == ["dog", "hot-dog"]


def test_whom_nothing_names_is_said(folder: Path) -> None:
    (said,) = doubts(load_subject(folder))
    assert "nothing says whom 1.png shows, so all count (dog, cat): name it in a caption" in said
    (
        folder / "2.txt"
    ).unlink()  # nothing says anything of any picture: all show all, as in the plan
    assert doubts(load_subject(folder)) == []


def test_what_does_not_count_is_said(folder: Path) -> None:
    mask(folder / "1.mask.dog.png")
    (folder / "1.json").write_text('{"concepts": ["cat"]}')
    (said,) = doubts(load_subject(folder))
    assert "the mask of 1.png shows 'dog', and its json or folder says cat alone" in said
    (folder / "1.mask.dog.png").unlink()
    (folder / "1.txt").write_text("a dog and a cat")
    (said,) = doubts(load_subject(folder))
    assert "the caption of 1.png shows 'dog'" in said


def test_a_caption_that_leaves_out_whom_a_mask_shows_is_said(folder: Path) -> None:
    mask(folder / "1.mask.dog.png")
    (folder / "1.txt").write_text("a cat")
    (said,) = doubts(load_subject(folder))
    assert "1.png shows 'dog', and its caption, 'a <cat>', does not name it: write <dog>" in said


def test_a_token_in_another_case_is_said(folder: Path) -> None:
    (folder / "1.txt").write_text("a <DOG> and a <cat>")
    assert any("has <DOG>, which is not <dog>" in said for said in doubts(load_subject(folder)))
    (folder / "subject.toml").unlink()
    (folder / "2.txt").unlink()
    subject = load_subject(folder, noun="dog", token="<dog>")
    (said,) = doubts(subject)
    assert "the caption of 1.png has <DOG>, which is not <dog>" in said


def test_many_of_a_kind_are_counted(folder: Path) -> None:
    for number in range(3, 9):
        (folder / f"{number}.png").write_bytes((folder / "1.png").read_bytes())
        (folder / f"{number}.txt").write_text("a dog")
        (folder / f"{number}.json").write_text('{"concepts": ["cat"]}')
    said = [text for text in doubts(load_subject(folder)) if "alone, which counts" in text]
    assert len(said) == 3
    assert said[-1].endswith("(and 3 more like this)")
