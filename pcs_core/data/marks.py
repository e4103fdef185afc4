"""Boxes, points and concepts that a user laid beside a picture, in parts of it: checked in one place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pcs_core.errors import InputError, nearest

Box = tuple[float, float, float, float]
SLACK = 1e-3
"""By how much a place may lie outside the picture: a detector's rounding."""


def checked_marks(marks: Any, names: Sequence[str], place: str) -> dict[str, Any]:
    """Return marks with ``boxes`` [[left, top, right, bottom], ...] and ``points`` [[x, y], ...] in [0, 1].

    Either may be given by concept: boxes become one list, points too where there is one concept. A box may be
    an object with a "box" and more. ``names`` are the concepts'; ``place`` begins the message.

    Raises
    ------
    InputError
        No such form, a number outside the picture (pixels, often), sides out of order, an unknown concept.
    """
    if marks is None:
        return {}
    if not isinstance(marks, Mapping):
        raise InputError(f"{place}: give an object with boxes or points, or None, got {marks!r}")
    checked = dict(marks)
    for key in ("boxes", "points"):
        if isinstance(given := marks.get(key), Mapping):
            for name in given:
                check_concept(name, names, f"{place}: {key}")
            if key == "boxes" or len(names) == 1:
                checked[key] = [one for some in given.values() for one in _listed(some)]
    if "boxes" in marks:
        boxes = _list(checked["boxes"], f"{place}: boxes")
        checked["boxes"] = [checked_box(one, f"{place}: boxes[{i}]") for i, one in enumerate(boxes)]
    if "points" in marks:
        points = checked["points"]
        rows = points.items() if isinstance(points, Mapping) else [("", points)]
        read = {name: checked_points(row, f"{place}: points") for name, row in rows}
        checked["points"] = read if isinstance(points, Mapping) else read[""]
    if "concepts" in marks:
        said = _list(marks["concepts"], f"{place}: concepts")
        for name in said:
            check_concept(name, names, f"{place}: concepts")
        if not said:
            raise InputError(
                f"{place}: concepts must be a list of names (known: {', '.join(names)})"
            )
    return checked


def check_concept(name: Any, names: Sequence[str], place: str) -> None:
    """Refuse the name of a concept that there is none of.

    Raises
    ------
    InputError
        Names the nearest.
    """
    if name not in names:
        hint = nearest(str(name), names) or f" (known: {', '.join(names)})"
        raise InputError(f"{place}: no concept {name!r}{hint}")


def boxes_in(marks: Mapping[str, Any]) -> Iterator[Box]:
    """Yield left, top, right and bottom of the boxes of checked marks."""
    for entry in marks.get("boxes") or ():
        box = entry["box"] if isinstance(entry, Mapping) else entry
        yield box[0], box[1], box[2], box[3]


def points_in(marks: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """Yield x and y of the points of checked marks."""
    points = marks.get("points") or ()
    for row in points.values() if isinstance(points, Mapping) else (points,):
        yield from ((x, y) for x, y in row)


def _listed(some: Any) -> list[Any]:
    """Return one box or point, or several, as several."""
    alone = isinstance(some, list | tuple) and some and isinstance(some[0], int | float)
    return [some] if alone or not isinstance(some, list | tuple) else list(some)


def _list(given: Any, place: str) -> list[Any]:
    if hasattr(given, "tolist"):  # an array or a tensor
        given = given.tolist()
    if not isinstance(given, list | tuple):
        raise InputError(f"{place} must be a list, got {given!r}")
    return list(given)


def checked_box(entry: Any, place: str) -> Any:
    """Return a box [left, top, right, bottom], or an object with one, in [0, 1].

    Raises
    ------
    InputError
        No such form, a number outside the picture, or sides out of order; ``place`` begins the message.
    """
    if isinstance(entry, Mapping):
        if "box" not in entry:
            raise InputError(f"{place} has no box: give [left, top, right, bottom]")
        return {**entry, "box": checked_box(entry["box"], f"{place}.box")}
    box = _numbers(entry, 4, "[left, top, right, bottom]", place)
    for first, second, low, high in (
        ("left", "right", box[0], box[2]),
        ("top", "bottom", box[1], box[3]),
    ):
        if low >= high:
            raise InputError(
                f"{place} has {first} {low:g} not below {second} {high:g}: give [left, top, right, bottom], no "
                "width and height"
            )
    return box


def checked_points(row: Any, place: str) -> list[list[float]]:
    """Return points [[x, y], ...] in [0, 1].

    Raises
    ------
    InputError
        No such form, or a number outside the picture; ``place`` begins the message.
    """
    return [_numbers(p, 2, "[x, y]", f"{place}[{i}]") for i, p in enumerate(_list(row, place))]


def _numbers(given: Any, count: int, form: str, place: str) -> list[float]:
    numbers: list[Any] = [given] if isinstance(given, str) else _list(given, place)
    plain = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if len(numbers) != count or not plain or not all(map(math.isfinite, numbers)):
        raise InputError(f"{place} is {given!r}: give {form} in parts of the picture, from 0 to 1")
    if not all(-SLACK <= n <= 1 + SLACK for n in numbers):
        pixels = ": divide pixels by the picture's width and height" if max(numbers) > 2 else ""
        raise InputError(f"{place} is {numbers}: parts of the picture are from 0 to 1{pixels}")
    return [min(max(float(n), 0.0), 1.0) for n in numbers]
