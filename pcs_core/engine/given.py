"""What Python callers give: pictures and masks brought to one form, numbers checked, as the command does.

A picture is a tensor [3 h w] in [0, 1] (a clip [3 t h w]). Also read: uint8 tensors of that shape, numpy arrays
[h w 3] (uint8, or floats in [0, 1]) and PIL pictures. What would be another picture than the one meant
(0 to 255 or -1 to 1 in floats, NaN, channels last) is refused, with the mend.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_core.errors import InputError, check_utf8

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import SampleSettings, Subject

SLACK = 1e-3
"""By how much a value may leave [0, 1]: what rounding and resizing leave behind."""
MOST = sys.float_info.max
LARGE = 1000.0
"""Scales and strengths beyond are mistakes: no picture comes of them, only overflow."""
ORIENTATION = 274
"""The EXIF tag of a photograph's orientation; 1 is upright."""


MARGIN = 2
"""Pictures are kept at this many times the size that the network is shown: what is cut out stays sharp."""


def given_subject(subject: Subject, size: tuple[int, int] | None = None) -> Subject:
    """Return ``subject`` with every picture and mask as a tensor in [0, 1].

    One that covers more than :data:`MARGIN` times ``size`` (height, width), which the network is shown, is
    scaled down to that, one after the other, so that no more than one is there at its full size.

    Raises
    ------
    InputError
        A name that is not UTF-8, a picture or mask that cannot be meant so, or as many captions, masks or
        files as there are no pictures; names the subject and the place.
    """
    words = [word for c in subject.concepts for word in (c.name, c.token, c.noun)]
    check_utf8(subject.name, *words, *subject.files, what="a subject's text")
    count = len(subject.images)
    for name, values in (
        ("captions", subject.captions),
        ("files", subject.files),
        ("extra", subject.extra),
        ("alternatives", subject.alternatives),
        ("repeats", subject.repeats),
        *((f"masks[{k!r}]", v) for k, v in subject.masks.items()),
    ):
        if count and len(values) not in (0, count):  # without pictures that is what is said
            raise InputError(
                f"subject {subject.name!r}: {name} has {len(values)} entries for {count} images: give one "
                "for each, None where there is none"
            )
    texts = [(f"captions[{i}]", caption) for i, caption in enumerate(subject.captions)]
    texts += [
        (f"alternatives[{i}]", t) for i, more in enumerate(subject.alternatives) for t in more
    ]
    for place, text in texts:
        if not isinstance(text, str | None):
            raise InputError(f"subject {subject.name!r}: {place} is {text!r}: give text, or None")
    for index, repeats in enumerate(subject.repeats):
        check_count(f"subject {subject.name!r}: repeats[{index}]", repeats)
    images: list[Tensor] = []
    masks: dict[str, list[Tensor | None]] = {name: [] for name in subject.masks}
    for index, given in enumerate(subject.images):
        image = given_picture(given, f"subject {subject.name!r}: images[{index}]")
        for name, row in subject.masks.items():
            if index < len(row):
                place = f"subject {subject.name!r}: masks[{name!r}][{index}]"
                mask = given_mask(row[index], image, place)
                masks[name].append(None if mask is None else reduced(mask, size))
        images.append(reduced(image, size))
    others = {
        name: tuple(
            reduced(
                given_picture(image, f"subject {subject.name!r}: others[{name!r}][{index}]"), size
            )
            for index, image in enumerate(pictures)
        )
        for name, pictures in subject.others.items()
    }
    rows = {name: tuple(row) for name, row in masks.items()}
    return replace(subject, images=tuple(images), others=others, masks=rows)


def reduced(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Return a picture [c h w] or clip [c t h w], a larger one at :data:`MARGIN` times what covers ``size``."""
    height, width = image.shape[-2:]
    scale = 1.0 if size is None else MARGIN * max(size[0] / height, size[1] / width)
    if scale >= 1:
        return image
    target = (max(1, round(height * scale)), max(1, round(width * scale)))
    frames = image.movedim(1, 0) if image.dim() == 4 else image[None]
    small = torch.cat(
        [F.interpolate(f[None], target, mode="bicubic", antialias=True) for f in frames]
    )
    small = small.clamp(0, 1)
    return small.movedim(0, 1) if image.dim() == 4 else small[0]


def given_picture(image: Any, place: str) -> Tensor:
    """Return a picture [3 h w], or a clip [3 t h w], in [0, 1].

    Raises
    ------
    InputError
        It is none, or its values are not meant so; says what it seems to be.
    """
    tensor = _tensor(image, place)
    shape = list(tensor.shape)
    if tensor.dim() not in (3, 4) or shape[0] != 3 or 0 in shape:
        last = tensor.dim() == 3 and shape[-1] == 3
        mend = "channels come first: image.permute(2, 0, 1)" if last else "give RGB [3 h w]"
        raise InputError(f"{place} has shape {shape}: {mend}")
    return _in_unit(tensor, place)


def given_mask(mask: Any, image: Tensor, place: str) -> Tensor | None:
    """Return a mask [1 h w] in [0, 1] of the image's size, or None.

    Raises
    ------
    InputError
        Another shape or size, or other values.
    """
    if mask is None:
        return None
    tensor = mask if isinstance(mask, torch.Tensor) else torch.as_tensor(mask)
    if tensor.dtype == torch.bool:
        tensor = tensor.float()
    if tensor.dim() == 2:
        tensor = tensor[None]
    if tensor.dim() < 3 or tensor.shape[0] != 1 or tensor.shape[-2:] != image.shape[-2:]:
        raise InputError(
            f"{place} has shape {list(tensor.shape)}: give [1 h w] of its image's size, "
            f"{list(image.shape[-2:])}"
        )
    return _in_unit(tensor, place)


def _tensor(image: Any, place: str) -> Tensor:
    if isinstance(image, torch.Tensor):
        return image
    if hasattr(image, "getbands"):  # a picture of PIL, which the core does not need
        return _of_pil(image, place)
    if hasattr(image, "__array_interface__"):
        array = torch.from_numpy(image.copy())
        if array.dim() != 3 or array.shape[-1] != 3:
            raise InputError(
                f"{place} is an array of shape {list(array.shape)}: give RGB [h w 3], uint8 or in [0, 1]"
            )
        return array.permute(2, 0, 1)
    raise InputError(
        f"{place} is a {type(image).__name__}: give a tensor [3 h w] in [0, 1], an array [h w 3] of uint8, "
        "or a PIL picture"
    )


def _of_pil(image: Any, place: str) -> Tensor:
    if image.mode not in ("RGB", "L"):
        raise InputError(
            f"{place} is a PIL picture of mode {image.mode}: convert it to RGB first, what is transparent onto "
            "a ground or into a mask"
        )
    if image.getexif().get(ORIENTATION, 1) != 1:
        raise InputError(f"{place} lies on its side: give PIL.ImageOps.exif_transpose(image)")
    width, height = image.size
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.view(height, width, 3).permute(2, 0, 1)


def _in_unit(tensor: Tensor, place: str) -> Tensor:
    """Return values in [0, 1] as floats."""
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255
    if not tensor.is_floating_point():
        raise InputError(f"{place} is of {tensor.dtype}: give uint8, or floats in [0, 1]")
    if not bool(tensor.isfinite().all()):
        raise InputError(f"{place} holds nan or inf: it is no picture")
    low, high = float(tensor.min()), float(tensor.max())
    if low >= -SLACK and high <= 1 + SLACK:
        return tensor if tensor.dtype == torch.float32 else tensor.float()
    if low >= -SLACK:
        mend = "divide it by 255" if high > 2 else "clamp it"
    else:
        mend = "give (x + 1) / 2 if it is from -1 to 1" if low >= -1 - SLACK else "scale it"
    raise InputError(f"{place} has values from {low:.3g} to {high:.3g}, and [0, 1] is read: {mend}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number, or is below ``least``.

    Raises
    ------
    InputError
        Names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}={value!r}: give a whole number, {least} or more")


def check_drawing(
    count: int, seed: int, settings: SampleSettings, strengths: Mapping[str, Any]
) -> None:
    """Refuse numbers that nothing can be drawn with: no picture, no step, a scale that is no number.

    Raises
    ------
    InputError
        Names the argument.
    """
    check_count("count", count)
    check_count("seed", seed, 0)
    check_count("steps", settings.steps)
    check_number("scale", settings.scale, 0.0, LARGE)
    for name, text in (("scheduler", settings.scheduler), ("negative", settings.negative)):
        if not isinstance(text, str):
            raise InputError(f"{name}={text!r}: give text")
    for name, value in strengths.items():
        check_number(f"strength {name}", value, -LARGE, LARGE)


def check_number(name: str, value: Any, least: float = -MOST, most: float = MOST) -> None:
    """Refuse what is no finite number from ``least`` to ``most``.

    Raises
    ------
    InputError
        Names the argument.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # nan compares as neither; an int may be too large for a float
    if not number or not -MOST <= value <= MOST or (least > -most and value < least):
        bounds = f", {least:g} or more" if least > -most else ""
        raise InputError(f"{name}={value!r}: give a finite number{bounds}")
    if not least <= value <= most:
        raise InputError(f"{name}={value!r}: give a number from {least:g} to {most:g}")


def given_subjects(
    subjects: Sequence[Subject], size: tuple[int, int] | None = None
) -> list[Subject]:
    """Return subjects as :func:`given_subject`."""
    return [given_subject(subject, size) for subject in subjects]
