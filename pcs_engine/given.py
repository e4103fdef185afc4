"""What Python callers give: pictures and masks brought to one form, numbers checked, as the command does.

A picture is a tensor [3 h w] in [0, 1] (a clip [3 t h w]). Also read: uint8 tensors of that shape, numpy arrays
[h w 3] (uint8, or floats in [0, 1]) and PIL pictures. What would be another picture than the one meant
(0 to 255 or -1 to 1 in floats, NaN, channels last) is refused, with the mend.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_core.assembly.schema import MOST_STEPS
from pcs_core.data import Subject
from pcs_core.data.concepts import check_concepts
from pcs_core.data.later import Later, changed, entries_of, row_of
from pcs_core.data.marks import check_concept, checked_marks
from pcs_core.errors import InputError, check_utf8

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import SampleSettings

EACH = ("captions", "files", "extra", "alternatives", "repeats")
"""What a subject may say of each picture."""
SLACK = 1e-3
"""By how much a value may leave [0, 1]: what rounding and resizing leave behind."""
MOST = sys.float_info.max
LARGE = 1000.0
"""Scales and strengths beyond are mistakes: no picture comes of them, only overflow."""
ORIENTATION = 274
"""The EXIF tag of a photograph's orientation; 1 is upright."""


_log = logging.getLogger("pcs.given")
MARGIN = 2
"""Pictures are kept at this many times the size that the network is shown: what is cut out stays sharp."""


def given_subject(subject: Subject, size: tuple[int, int] | None = None) -> Subject:
    """Return ``subject`` with every picture and mask as a tensor in [0, 1].

    One that covers more than :data:`MARGIN` times ``size`` (height, width), which the network is shown, is
    scaled down to that, one after the other, so that no more than one is there at its full size.

    Raises
    ------
    InputError
        No subject; a name that is not UTF-8, concepts that cannot be told apart, a picture, mask, box or
        caption that cannot be meant so, or as many of them as there are no pictures; names the place.
    """
    if not isinstance(subject, Subject):
        raise InputError(
            f"{subject!r} is no subject: load_subject(folder) reads one, or give Subject(...)"
        )
    check_concepts(subject.concepts, f"subject {subject.name!r}")
    check_rows_of(subject)
    names = [concept.name for concept in subject.concepts]
    words = [word for c in subject.concepts for word in (c.name, c.token, c.noun)]
    check_utf8(subject.name, *words, *subject.files, what="a subject's text")
    texts = [(f"captions[{i}]", caption) for i, caption in enumerate(subject.captions)]
    texts += [
        (f"alternatives[{i}]", t) for i, more in enumerate(subject.alternatives) for t in more
    ]
    for place, text in texts:
        if not isinstance(text, str | None):
            raise InputError(f"subject {subject.name!r}: {place} is {text!r}: give text, or None")
        if "\0" in (text or ""):
            raise InputError(
                f"subject {subject.name!r}: {place} holds a character of 0: it is no text"
            )
    for index, repeats in enumerate(subject.repeats):
        check_count(f"subject {subject.name!r}: repeats[{index}]", repeats)
    images: list[Any] = []
    masks: dict[str, list[Any]] = {name: [] for name in subject.masks}
    for index, given in enumerate(entries_of(subject.images)):
        image = given_picture(given, f"subject {subject.name!r}: images[{index}]")
        for name, row in subject.masks.items():
            if index < len(row):
                place = f"subject {subject.name!r}: masks[{name!r}][{index}]"
                mask = given_mask(entries_of(row)[index], image, place)
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
    rows = {name: row_of(row) for name, row in masks.items()}
    extra = tuple(
        checked_marks(marks, names, f"subject {subject.name!r}: extra[{index}]")
        for index, marks in enumerate(subject.extra)
    )
    return replace(subject, images=row_of(images), others=others, masks=rows, extra=extra)


def check_rows_of(subject: Subject) -> None:
    """Refuse what is given for each picture, where it is not one entry for each.

    Raises
    ------
    InputError
        Names the field, or the concept of masks that there is none of.
    """
    place = f"subject {subject.name!r}"
    if not isinstance(subject.masks, Mapping):
        raise InputError(
            f"{place}: masks is {_kind(subject.masks)}: give concept -> a mask for each image"
        )
    for name in subject.masks:
        check_concept(name, [c.name for c in subject.concepts], f"{place}: masks")
    several = {
        **{key: getattr(subject, key) for key in ("images", *EACH)},
        **{f"masks[{k!r}]": row for k, row in subject.masks.items()},
    }
    for name, values in several.items():
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise InputError(
                f"{place}: {name} is {_kind(values)}: give a tuple, an entry for each image"
            )
    count = len(subject.images)
    for name, values in several.items():
        if count and len(values) not in (0, count):  # without pictures that is what is said
            raise InputError(
                f"{place}: {name} has {len(values)} entries for {count} images: give one for each, None where "
                "there is none"
            )
    for index, file in enumerate(subject.files):
        if not isinstance(file, str):
            raise InputError(
                f"{place}: files[{index}] is {file!r}: give the name of a file, as text"
            )


def _kind(value: Any) -> str:
    return f"{value[:20]!r}" if isinstance(value, str) else f"a {type(value).__name__}"


def reduced(image: Any, size: tuple[int, int] | None) -> Any:
    """Return a picture [c h w] or clip [c t h w], a larger one at :data:`MARGIN` times what covers ``size``."""
    height, width = image.shape[-2:]
    scale = 1.0 if size is None else MARGIN * max(size[0] / height, size[1] / width)
    if scale >= 1:
        return image
    target = (max(1, round(height * scale)), max(1, round(width * scale)))
    return changed(image, (*image.shape[:-2], *target), lambda t: _scaled(t, target))


def _scaled(image: Tensor, target: tuple[int, int]) -> Tensor:
    frames = image.movedim(1, 0) if image.dim() == 4 else image[None]
    small = torch.cat(
        [F.interpolate(f[None], target, mode="bicubic", antialias=True) for f in frames]
    )
    small = small.clamp(0, 1)
    return small.movedim(0, 1) if image.dim() == 4 else small[0]


def given_picture(image: Any, place: str) -> Any:
    """Return a picture [3 h w], or a clip [3 t h w], in [0, 1]; one that is read later as it is.

    Raises
    ------
    InputError
        It is none, or its values are not meant so; says what it seems to be.
    """
    if isinstance(image, Later):
        return image
    tensor = _tensor(image, place)
    shape = list(tensor.shape)
    if tensor.dim() not in (3, 4) or shape[0] != 3 or 0 in shape:
        last = tensor.dim() == 3 and shape[-1] == 3
        mend = "channels come first: image.permute(2, 0, 1)" if last else "give RGB [3 h w]"
        raise InputError(f"{place} has shape {shape}: {mend}")
    return _in_unit(tensor, place)


def given_mask(mask: Any, image: Any, place: str) -> Any:
    """Return a mask [1 h w] in [0, 1] of the image's size, or None; one that is read later as it is.

    Raises
    ------
    InputError
        Another shape or size, or other values.
    """
    if mask is None or isinstance(mask, Later):
        return mask
    tensor = _mask_tensor(mask, place)
    if tensor.dim() == 2:
        tensor = tensor[None]
    elif tensor.dim() == 3 and tensor.shape[-1] == 1 and tensor.shape[0] != 1:
        tensor = tensor.movedim(-1, 0)
    if tensor.dim() != 3 or tensor.shape[0] != 1 or tensor.shape[-2:] != image.shape[-2:]:
        raise InputError(
            f"{place} has shape {list(tensor.shape)}: give [1 h w] of its image's size, "
            f"{list(image.shape[-2:])}"
        )
    return _in_unit(tensor, place)


def _mask_tensor(mask: Any, place: str) -> Tensor:
    """Return a mask's values; those of whole numbers are 0 and 1, or 0 to 255."""
    if hasattr(mask, "getbands"):
        if mask.mode not in ("1", "L"):
            raise InputError(
                f"{place} is a PIL picture of mode {mask.mode}: convert it to L, white is the subject"
            )
        levels = torch.frombuffer(bytearray(mask.convert("L").tobytes()), dtype=torch.uint8)
        tensor = levels.view(mask.height, mask.width)
    elif isinstance(mask, torch.Tensor):
        tensor = _dense(mask, place)
    elif hasattr(mask, "__array_interface__"):
        tensor = _of_array(mask, place)
    elif isinstance(mask, list | tuple):
        raise InputError(
            f"{place} is a {type(mask).__name__}: give a tensor [1 h w], an array or a PIL picture"
        )
    else:
        raise InputError(
            f"{place} is {_kind(mask)}: give a tensor [1 h w], an array or a PIL picture"
        )
    whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel()
    # 0 and 1 of whole numbers are a mask, and not 0 and 1 of 255
    return tensor.float() if whole and int(tensor.min()) >= 0 and int(tensor.max()) <= 1 else tensor


def _dense(tensor: Tensor, place: str) -> Tensor:
    """Return a tensor that holds its values one by one."""
    if tensor.is_meta:
        raise InputError(f"{place} is a tensor without values (device meta)")
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _of_array(array: Any, place: str) -> Tensor:
    """Return the values of a numpy array, in this machine's order of bytes."""
    if hasattr(array, "mask"):
        raise InputError(f"{place} is an array with values masked out: fill them (array.filled(0))")
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))
    except TypeError as error:
        raise InputError(
            f"{place} is an array of {array.dtype}: give uint8, or floats in [0, 1]"
        ) from error


def _tensor(image: Any, place: str) -> Tensor:
    if isinstance(image, torch.Tensor):
        return _dense(image, place)
    if hasattr(image, "getbands"):  # a picture of PIL, which the core does not need
        return _of_pil(image, place)
    if hasattr(image, "__array_interface__"):
        array = _of_array(image, place)
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
    if image.info.get("icc_profile"):  # what reads folders knows profiles
        from pcs_core.catalogue import beside

        try:
            image, note = beside("to_srgb", "pcs_folders.colour")(image)
        except InputError as error:
            raise InputError(f"{place} {error}") from error
        if note:
            _log.warning("%s: %s", place, note)
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
        plain = f", as a plain int({name})" if hasattr(value, "item") else ""
        raise InputError(f"{name}={value!r}: give a whole number, {least} or more{plain}")


def check_switch(name: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    Raises
    ------
    InputError
        Names the argument.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name}={value!r}: give True or False")


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
    if settings.steps > MOST_STEPS:
        raise InputError(f"steps={settings.steps}: give {MOST_STEPS} or fewer")
    if not isinstance(strengths, Mapping):
        raise InputError(f"strengths={strengths!r}: give names with numbers, as {{'lora': 0.8}}")
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
        bounds += f", as a plain float({name})" if hasattr(value, "item") else ""
        raise InputError(f"{name}={value!r}: give a finite number{bounds}")
    if not least <= value <= most:
        raise InputError(f"{name}={value!r}: give a number from {least:g} to {most:g}")


def given_subjects(
    subjects: Sequence[Subject] | Subject | None, size: tuple[int, int] | None = None
) -> list[Subject]:
    """Return subjects as :func:`given_subject`."""
    if isinstance(subjects, Subject):
        subjects = [subjects]
    elif not isinstance(subjects, Iterable):
        raise InputError(f"subjects: {subjects!r} is no subject: load_subject(folder) reads one")
    return [given_subject(subject, size) for subject in subjects]
