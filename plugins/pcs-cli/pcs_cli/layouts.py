"""Reading a layout: ``{"boxes": [{"phrase", "box", "prompt"}], "points": [[x, y]], "picture": "edges.png"}``.

A file of a picture is a layout of that control picture alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pcs_core.data.layout import Box, Layout
from pcs_core.errors import InputError, nearest
from pcs_core.small_files import parse_json, read_text

Part = Annotated[float, Field(ge=0.0, le=1.0)]
"""A place along a side of the picture, 0 left or top."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class BoxTable(_Table):
    """One box: see :class:`pcs_core.data.Box`."""

    phrase: Annotated[str, Field(min_length=1)]
    box: tuple[Part, Part, Part, Part]
    prompt: str = ""

    @model_validator(mode="after")
    def _in_order(self) -> BoxTable:
        left, top, right, bottom = self.box
        for first, second, low, high in (
            ("left", "right", left, right),
            ("top", "bottom", top, bottom),
        ):
            if low >= high:
                raise ValueError(
                    f"[left, top, right, bottom] has {first} {low:g} not below {second} {high:g}"
                )
        return self


class LayoutTable(_Table):
    """A layout file."""

    boxes: tuple[BoxTable, ...] = ()
    points: tuple[tuple[Part, Part], ...] = ()
    picture: str = ""
    """A file beside the layout, or an absolute path."""


def load_layout(file: str | Path) -> Layout:
    """Read the layout in ``file``: boxes of phrases and points in [0, 1] of the picture, a control picture.

    Raises
    ------
    InputError
        Not JSON, an unknown key, a value out of range, a box whose sides are out of order, no picture, or
        nothing in it. Names the file and the place.
    """
    from pcs_folders.images import SUFFIXES, read_picture

    file = Path(file)
    if file.suffix.lower() in SUFFIXES:
        return Layout(picture=read_picture(file).rgb)
    text = read_text(file)
    data = parse_json(text, file)
    try:
        # JSON mode: a list for a tuple and 1 for a float pass; "0.5" does not
        table = LayoutTable.model_validate_json(text.lstrip("\ufeff"), strict=True)
    except ValidationError as error:
        raise InputError(f"{file}: {_explain(error, data)}") from error
    if not table.boxes and not table.points and not table.picture:
        raise InputError(f"{file} holds neither boxes nor points nor a picture")
    boxes = tuple(Box(b.phrase, b.box, b.prompt) for b in table.boxes)
    picture = read_picture(file.parent / table.picture).rgb if table.picture else None
    return Layout(boxes=boxes, points=table.points, picture=picture)


def _explain(error: ValidationError, data: Any) -> str:
    """Return the first complaint in one line, with its place and the nearest key."""
    first = error.errors()[0]
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = tuple((BoxTable if "boxes" in first["loc"] else LayoutTable).model_fields)
        hint = nearest(key, known) or f" (known: {', '.join(known)})"
        return f"unknown key {place!r}{hint}"
    if first["type"] == "missing":
        return f"{place} is missing"
    if not place:
        return f"it holds {type(data).__name__}, not an object with boxes, points or a picture"
    said = first["msg"].removeprefix("Value error, ")
    return f"{place}: {said[0].lower()}{said[1:]}, got {json.dumps(first['input'])}"
