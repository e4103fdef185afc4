"""``pcs fit --dry-run``, and what a fit says of its folder."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from unicodedata import normalize

import pytest
from PIL import Image


def untidy(folder: Path) -> Path:
    """Add a mask of levels 0 and 1, a caption and a file of no use to a subject."""
    mask = Image.new("L", (36, 40), 0)
    mask.paste(1, (4, 4, 20, 20))
    mask.save(folder / "0.mask.png")
    (folder / "1.caption").write_text("a <rex> on sand", encoding="utf-8")
    (folder / "notes.md").write_text("x", encoding="utf-8")
    return folder


def test_every_file_is_printed_and_nothing_made(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    untidy(tmp_path / "subjects" / "rex")
    done = pcs(*fit_arguments, "--dry-run", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["subjects"]
    assert {f["file"]: f["use"] for f in row["files"]} == {
        "0.png": "picture",
        "0.mask.png": "mask of 'dog' in 0.png",
        "1.png": "picture",
        "1.caption": "caption of 1.png",
        "notes.md": "left out",
    }
    assert [p["caption"] for p in row["pictures"]] == [None, "a <rex> on sand"]
    assert "the masks of 0.png change nothing" in row["unused"][0]
    assert not (tmp_path / "out").exists()
    text = pcs(*fit_arguments, "--dry-run")
    for words in (
        "0.mask.png  mask of 'dog' in 0.png",
        "notes.md    left out",
        "nothing was fitted",
    ):
        assert words in text.out
    assert not (tmp_path / "out").exists()


def test_a_fit_says_what_it_leaves_out(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    untidy(tmp_path / "subjects" / "rex")
    done = pcs(*fit_arguments, "--no-preview")
    assert done.code == 0, done.err
    assert "rex/notes.md: left out" in done.err
    assert "levels 0 and 1: 1 is read as the subject" in done.err
    assert "subject 'rex': the masks of 0.png change nothing: no technique of 'words'" in done.err


def test_an_ordinary_folder_is_no_reason_for_a_word(
    pcs: Callable, fit_arguments: list[object]
) -> None:
    done = pcs(*fit_arguments, "--no-preview")
    assert done.code == 0, done.err
    assert done.err.startswith(("words: step", "fitted in"))


def test_a_photograph_is_held_at_twice_what_is_shown(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    Image.new("RGB", (400, 300), "red").save(tmp_path / "subjects" / "rex" / "0.png")
    done = pcs(*fit_arguments, "--dry-run", "--json")
    assert json.loads(done.out)["subjects"][0]["pictures"][0]["size"] == "85 x 64"


def test_which_picture_shows_which_concept_is_printed(
    pcs: Callable, recipe: Path, subject: Callable, tmp_path: Path
) -> None:
    folder = subject("pair")
    (folder / "subject.toml").write_text(
        '[[concept]]\ntoken="<rex>"\nnoun="dog"\n[[concept]]\ntoken="<tom>"\nnoun="cat"\n'
    )
    (folder / "0.txt").write_text("a cat")
    Image.new("L", (36, 40), 255).save(folder / "1.mask.dog.png")
    words = (
        "fit",
        recipe,
        folder,
        "--backbone",
        "tiny",
        "--out",
        tmp_path / "o",
        "--dry-run",
        "--json",
    )
    done = pcs(*words)
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["subjects"]
    assert {p["file"]: p["shows"] for p in row["pictures"]} == {"0.png": ["cat"], "1.png": ["dog"]}


def test_the_memory_is_said_and_a_step_keeps_as_much_of_any_folder(
    pcs: Callable, recipe: Path, subject: Callable, tmp_path: Path
) -> None:
    words = ("--noun", "dog", "--token", "<it>", "--backbone", "tiny", "--out", tmp_path / "o")
    said = []
    for name, count in (("few", 2), ("many", 9)):
        done = pcs("fit", recipe, subject(name, count=count), *words, "--dry-run", "--json")
        assert done.code == 0, done.err
        (line,) = (x for x in json.loads(done.out)["plan"] if x.startswith("memory: "))
        said.append(line)
    assert all("what a step keeps of 1 rows at a time" in line for line in said)
    # one as it is read, 32 x 32 as they are encoded, and mean and spread of the latents of all, of four bytes
    numbers = 3 * 40 * 36 + 9 * (3 * 32 * 32 + 2 * 4 * 16 * 16)
    assert f"pictures at most {4 * numbers / 1e6:.1f} MB" in said[1]
    more = pcs(
        "fit", recipe, tmp_path / "subjects" / "few", *words, "--set", "words.batch=6", "--dry-run"
    )
    assert "what a step keeps of 6 rows at a time" in more.out


def test_names_of_other_tools_and_forms_are_read(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    folder = tmp_path / "subjects" / "rex"
    two, one = normalize("NFD", "é"), normalize("NFC", "é")
    (folder / "0.png").rename(folder / f"{two}.png")
    (folder / f"{one}.txt").write_text("a <rex> on sand", encoding="utf-8")
    mask = Image.new("L", (36, 40), 0)
    mask.paste(255, (4, 4, 20, 20))
    mask.save(folder / "1_matte.png")
    (row,) = json.loads(pcs(*fit_arguments, "--dry-run", "--json").out)["subjects"]
    uses = {f["file"]: f["use"] for f in row["files"]}
    assert uses["1_matte.png"] == "mask of 'dog' in 1.png"
    assert uses[f"{one}.txt"] == f"caption of {two}.png"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("0.json", b'{"boxes": [[0, 0, 30, 40]]}', "divide pixels by the picture's width"),
        ("0.json", b'{"points": [[0.1]]}', "give [x, y] in parts of the picture"),
        ("0.txt", "a dog".encode("utf-16-le"), "is no text, or UTF-16"),
        ("2.exr", b"x", ".exr pictures are not read"),
        ("2.jpg", b"\xff\x0a____", "holds JPEG XL, which is not read"),
    ],
)
def test_what_is_not_read_is_refused_by_its_true_cause(
    pcs: Callable,
    fit_arguments: list[object],
    tmp_path: Path,
    name: str,
    content: bytes,
    said: str,
) -> None:
    (tmp_path / "subjects" / "rex" / name).write_bytes(content)
    done = pcs(*fit_arguments, "--dry-run")
    assert done.code == 2
    assert said in done.err
    assert name in done.err


def test_high_dynamic_range_is_said_with_its_file(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    folder = tmp_path / "subjects" / "rex"
    # what a picture says of its colour stands behind its head of 33 bytes
    plain, chunk = (folder / "0.png").read_bytes(), b"cICP" + bytes((9, 16, 0, 1))
    coded = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (folder / "2.png").write_bytes(plain[:33] + coded + plain[33:])
    (row,) = json.loads(pcs(*fit_arguments, "--dry-run", "--json").out)["subjects"]
    (note,) = [f["note"] for f in row["files"] if f["file"] == "2.png"]
    assert "its cICP chunk says PQ" in note


def test_how_long_it_takes_is_measured_and_printed(
    pcs: Callable, fit_arguments: list[object]
) -> None:
    """Ten thousand times the steps take longer: in minutes, or hours, of which both are said."""
    lines = []
    for steps in (6, 60_000):
        done = pcs(*fit_arguments, "--set", f"words.steps={steps}", "--dry-run", "--json")
        assert done.code == 0, done.err
        (line,) = [one for one in json.loads(done.out)["plan"] if one.startswith("time: about")]
        assert f"for {steps} steps of 'words': {steps} rows" in line
        assert re.search(r"s that one forward of 32 x 32 took now on cpu", line)
        lines.append(line)
    assert re.search(r"about \d+ s for", lines[0])
    assert re.search(r"about [\d.]+ (min|h) for", lines[1])
