"""A layout file: read whole, or refused with the place of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcs_cli.layouts import load_layout
from pcs_core.data import Box, Layout
from pcs_core.errors import InputError

BOX: dict[str, Any] = {"phrase": "a dog", "box": [0, 0.25, 0.5, 1]}


def written(tmp_path: Path, data: Any) -> Path:
    file = tmp_path / "layout.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
    return file


def test_boxes_and_points_are_read(tmp_path: Path) -> None:
    second = {"phrase": "<cat>", "box": [0.5, 0.0, 1.0, 0.5], "prompt": "a <cat> that sleeps"}
    file = written(tmp_path, {"boxes": [BOX, second], "points": [[0.5, 0.5], [0, 1]]})
    assert load_layout(file) == Layout(
        boxes=(
            Box("a dog", (0.0, 0.25, 0.5, 1.0)),
            Box("<cat>", (0.5, 0.0, 1.0, 0.5), "a <cat> that sleeps"),
        ),
        points=((0.5, 0.5), (0.0, 1.0)),
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{", "not valid JSON"),
        ([BOX], "it holds list, not an object"),
        ({}, "neither boxes nor points"),
        ({"boxs": [BOX]}, "unknown key 'boxs', did you mean 'boxes'?"),
        ({"boxes": [{**BOX, "promt": "x"}]}, "'boxes[0].promt', did you mean 'prompt'?"),
        ({"boxes": [{"phrase": "a dog"}]}, "boxes[0].box is missing"),
        ({"boxes": [{**BOX, "phrase": ""}]}, "boxes[0].phrase"),
        ({"boxes": [{**BOX, "box": [0, 0, 1]}]}, "boxes[0].box"),
        ({"boxes": [{**BOX, "box": [0, 0, 64, 1]}]}, "boxes[0].box[2]: input should be less than"),
        ({"boxes": [{**BOX, "box": [0, 0, "1", 1]}]}, "boxes[0].box[2]"),
        ({"boxes": [BOX, {**BOX, "box": [0.5, 0, 0.5, 1]}]}, "left 0.5 not below right 0.5"),
        ({"boxes": [{**BOX, "box": [0, 0.9, 1, 0.1]}]}, "top 0.9 not below bottom 0.1"),
        ({"points": [[0.5, -0.1]]}, "points[0][1]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, data: Any, said: str) -> None:
    file = written(tmp_path, data)
    with pytest.raises(InputError) as refused:
        load_layout(file)
    assert said in str(refused.value)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_layout(tmp_path / "none.json")
