"""Which part of a reference the network is shown: the crop keeps the subject, or what it loses is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_core.data.later import Later, changed, entries_of, row_of
from pcs_core.data.marks import boxes_in, points_in
from pcs_core.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Subject

CROPS = ("auto", "centre", "subject", "none")
"""auto: the middle, moved as little as keeps masks, boxes and points; centre: the middle; subject: as auto, and
a picture without marks whole; none: every picture whole, on a ground where the loss does not count."""
MUCH = 0.1
"""Share of a picture that may be cut off without a word."""
ENLARGED = 4
"""Times that a picture may be scaled up without a word."""
MASK = 0.001
"""Share of a mask that may be cut off without a word."""


def check_crop(mode: str) -> None:
    """Refuse a crop that there is none of.

    Raises
    ------
    InputError
        Names those that there are.
    """
    if mode not in CROPS:
        raise InputError(f"crop {mode!r}: {', '.join(CROPS)}{nearest(mode, CROPS)}")


def crop_subject(
    subject: Subject, sizes: tuple[int, int] | Sequence[tuple[int, int]], mode: str = "auto"
) -> tuple[Subject, tuple[str, ...]]:
    """Return the subject with its pictures cut or padded to the shape of ``sizes`` where ``mode`` asks for it.

    ``sizes`` are height and width of all, or of each.

    Also a sentence for each picture that loses part of its masks, or more than :data:`MUCH` of itself, or is
    enlarged more than :data:`ENLARGED` times.
    A picture whose middle is what should be shown stays as it is: it is cut when it is scaled. Masks, boxes and
    points go with their picture; ``subject.valid`` says where a padded one is a picture.
    """
    check_crop(mode)
    changed = subject
    said: list[str] = []
    for index, image in enumerate(entries_of(subject.images)):
        shape = (image.shape[-2], image.shape[-1])
        size: Any = sizes if isinstance(sizes[0], int) else sizes[index]
        window = _window(shape, size)
        larger = max(size[0] / shape[0], size[1] / shape[1])
        if larger > ENLARGED:
            said.append(
                f"{_name(subject, index)}: its {shape[1]} x {shape[0]} pixels are enlarged {larger:.0f} times"
            )
        lost = 1 - window[0] * window[1] / (shape[0] * shape[1])
        if window == shape or image.dim() == 4:
            if lost > MUCH:
                said.append(_much(subject, index, lost, size))
            continue
        box = None if mode in ("centre", "none") else _marked(subject, index)
        if mode == "none" or (mode == "subject" and box is None and lost > 0):
            changed = _padded(changed, index, size)
            continue
        middle = (shape[0] - window[0]) // 2, (shape[1] - window[1]) // 2
        corner = middle if box is None else _moved(middle, window, shape, box)
        cut = _cut_masks(subject, index, corner, window)
        if cut:
            said.append(
                f"{_name(subject, index)}: the crop leaves out {cut}; --crop none shows it whole"
            )
        elif box is None and lost > MUCH:
            said.append(_much(subject, index, lost, size))
        if corner != middle:
            changed = _cropped(changed, index, corner, window)
    return changed, tuple(f"subject {subject.name!r}: {line}" for line in said)


def _window(shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the largest part of ``shape`` that has the shape of ``size``."""
    scale = max(size[0] / shape[0], size[1] / shape[1])
    return min(shape[0], round(size[0] / scale)), min(shape[1], round(size[1] / scale))


def _much(subject: Subject, index: int, lost: float, size: tuple[int, int]) -> str:
    return (
        f"{_name(subject, index)}: the crop to {size[1]} x {size[0]} leaves out {100 * lost:.0f} % of it; a "
        "mask keeps the subject in, --crop none shows it whole"
    )


def _name(subject: Subject, index: int) -> str:
    return subject.files[index] if index < len(subject.files) else f"picture {index}"


def _laid(subject: Subject, index: int) -> dict[str, Any]:
    """Return the masks of a picture by concept, as they stand in their rows."""
    rows = {name: entries_of(row) for name, row in subject.masks.items() if index < len(row)}
    return {name: row[index] for name, row in rows.items() if row[index] is not None}


def _seen(subject: Subject, index: int) -> dict[str, Tensor]:
    """Return the masks of a picture by concept, read."""
    return {name: subject.masks[name][index] for name in _laid(subject, index)}  # type: ignore[misc]


def _marked(subject: Subject, index: int) -> tuple[float, float, float, float] | None:
    """Return top, left, bottom and right in pixels of all that marks the subject, or None."""
    height, width = entries_of(subject.images)[index].shape[-2:]
    spans: list[tuple[float, float, float, float]] = []
    for mask in _seen(subject, index).values():
        rows, columns = (mask[0] > 0.5).any(1).nonzero(), (mask[0] > 0.5).any(0).nonzero()
        if len(rows):
            spans.append((int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1))
    extra = subject.extra[index] if index < len(subject.extra) else {}
    for left, top, right, bottom in boxes_in(extra):
        spans.append((top * height, left * width, bottom * height, right * width))
    for x, y in points_in(extra):
        spans.append((y * height, x * width, y * height, x * width))
    if not spans:
        return None
    tops, lefts, bottoms, rights = zip(*spans, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)


def _moved(
    middle: tuple[int, int],
    window: tuple[int, int],
    shape: tuple[int, int],
    box: tuple[float, float, float, float],
) -> tuple[int, int]:
    """Return top and left of the window, moved from the middle as little as keeps ``box`` in it.

    What does not fit stands in the middle of the window.
    """
    corner = []
    for start, length, whole, low, high in zip(
        middle, window, shape, box[:2], box[2:], strict=True
    ):
        at = (
            (low + high - length) / 2
            if high - low > length
            else min(max(start, high - length), low)
        )
        corner.append(int(min(max(round(at), 0), whole - length)))
    return corner[0], corner[1]


def _cut_masks(
    subject: Subject, index: int, corner: tuple[int, int], window: tuple[int, int]
) -> str:
    """Return what the crop leaves out of which mask, or nothing."""
    top, left = corner
    lines = []
    for name, mask in _seen(subject, index).items():
        whole = float(mask.sum())
        inside = float(mask[:, top : top + window[0], left : left + window[1]].sum())
        if whole and 1 - inside / whole > MASK:
            lines.append(f"{100 * (1 - inside / whole):.1f} % of the mask of {name!r}")
    return ", ".join(lines)


def _cropped(
    subject: Subject, index: int, corner: tuple[int, int], window: tuple[int, int]
) -> Subject:
    """Return the subject with picture ``index``, and what was laid over it, cut to the window."""
    (top, left), (height, width) = corner, window
    rows, columns = slice(top, top + height), slice(left, left + width)
    image = entries_of(subject.images)[index]
    shape = image.shape[-2:]

    def cut(entry: Any) -> Any:
        return changed(
            entry, (*entry.shape[:-2], *window), lambda t: t[..., rows, columns].contiguous()
        )

    return _with(
        subject,
        index,
        image=cut(image),
        masks={name: cut(mask) for name, mask in _laid(subject, index).items()},
        place=lambda x, y: ((x * shape[1] - left) / width, (y * shape[0] - top) / height),
        valid=None,
    )


def _padded(subject: Subject, index: int, size: tuple[int, int]) -> Subject:
    """Return the subject with picture ``index`` whole, its edges repeated to the shape of ``size``."""
    image = entries_of(subject.images)[index]
    height, width = image.shape[-2:]
    full = (
        max(height, round(width * size[0] / size[1])),
        max(width, round(height * size[1] / size[0])),
    )
    top, left = (full[0] - height) // 2, (full[1] - width) // 2
    border = (left, full[1] - width - left, top, full[0] - height - top)
    inside = Later((1, height, width), lambda: torch.ones(1, height, width))
    return _with(
        subject,
        index,
        image=changed(image, (3, *full), lambda t: F.pad(t[None], border, mode="replicate")[0]),
        masks={
            name: changed(mask, (1, *full), lambda t: F.pad(t, border))
            for name, mask in _laid(subject, index).items()
        },
        place=lambda x, y: ((x * width + left) / full[1], (y * height + top) / full[0]),
        valid=changed(inside, (1, *full), lambda t: F.pad(t, border)),
    )


def _with(
    subject: Subject,
    index: int,
    *,
    image: Any,
    masks: Mapping[str, Any],
    place: Any,
    valid: Any,
) -> Subject:
    """Return the subject with another picture ``index``; ``place`` moves x and y in parts of the old one."""
    count = len(subject.images)

    def put(row: Sequence[Any], value: Any, missing: Any = None) -> Sequence[Any]:
        filled = [*entries_of(row), *[missing] * (count - len(row))]
        filled[index] = value
        return row_of(filled)

    changes: dict[str, Any] = {"images": put(subject.images, image)}
    if valid is not None:
        changes["valid"] = put(subject.valid, valid)
    changes["masks"] = {
        name: put(row, masks[name]) if name in masks else row for name, row in subject.masks.items()
    }
    if index < len(subject.extra) and subject.extra[index]:
        changes["extra"] = put(subject.extra, _placed_marks(subject.extra[index], place), {})
    return replace(subject, **changes)


def _placed_marks(extra: Mapping[str, Any], place: Any) -> dict[str, Any]:
    marks, points = dict(extra), extra.get("points")
    if isinstance(points, Mapping):
        marks["points"] = {k: [list(place(*p)) for p in row] for k, row in points.items()}
    elif points:
        marks["points"] = [list(place(*point)) for point in points]
    if extra.get("boxes"):
        marks["boxes"] = [_placed_box(entry, place) for entry in extra["boxes"]]
    return marks


def _placed_box(entry: Any, place: Any) -> Any:
    if isinstance(entry, Mapping):
        return {**entry, "box": _placed_box(entry["box"], place)}
    left, top, right, bottom = entry
    return [min(max(n, 0.0), 1.0) for n in (*place(left, top), *place(right, bottom))]
