"""Bytes that are no text, in captions, layouts and prompts: refused with their place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("0.txt", "a café".encode("latin-1"), "0.txt is not UTF-8 text: byte 5 (0xE9, line 1)"),
        ("0.caption", "ein Hund".encode("utf-16"), "0.caption is not UTF-8 text but UTF-16"),
        (
            "metadata.csv",
            b"file_name,text\n0.png,a caf\xe9\n",
            "metadata.csv is not UTF-8 text: byte 26 (0xE9, line 2)",
        ),
        (
            "metadata.jsonl",
            b'{"file_name": "0.png", "text": "a \\ud83d dog"}\n',
            "metadata.jsonl:1 holds half of a character (the surrogate U+D83D)",
        ),
        ("0.txt", "a \ue000 dog".encode(), "holds the private character U+E000 at place 2"),
    ],
)
def test_a_caption_that_is_no_text(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (Path(str(fit_arguments[2])) / name).write_bytes(content)
    done = pcs(*fit_arguments)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "out" / "rex").exists()


@pytest.mark.parametrize("place", ["prompt", "negative"])
def test_a_prompt_with_half_a_character(pcs: Callable, tmp_path: Path, place: str) -> None:
    """As the shell hands over a byte that is not UTF-8."""
    words = ["a \udcff dog"] if place == "prompt" else ["a dog", "--negative", "a \udcff dog"]
    done = pcs("sample", "--base", "tiny", *words, "--steps", 1, "--out", tmp_path / "p")
    assert done.code == 2
    assert "UTF-8" in done.err
    assert not (tmp_path / "p").exists()


def test_a_layout_that_is_no_text(pcs: Callable, fitted: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout.json"
    box = json.dumps({"boxes": [{"phrase": "a cafe", "box": [0, 0, 1, 1]}]})
    layout.write_bytes(box.encode().replace(b"cafe", b"caf\xe9"))
    done = pcs("sample", fitted, "<rex>", "--layout", layout, "--out", tmp_path / "p")
    assert done.code == 2
    assert "layout.json is not UTF-8 text: byte 28 (0xE9, line 1)" in done.err
