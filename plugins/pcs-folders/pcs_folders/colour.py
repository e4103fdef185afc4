"""Embedded colour profiles: pictures become sRGB, which is what every backbone was trained on."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from pcs_folders.said_colour import HDR, high_range_profile

SAME = 1.5
"""Levels of 255 by which a profile may move a colour and still be called sRGB: rounding of its tables."""
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}


def to_srgb(image: Image.Image) -> tuple[Image.Image, str]:
    """Return the picture in sRGB by its embedded ICC profile, and what a user should know of it.

    A picture without a profile, or with that of sRGB itself, is returned as it is: not a level changes.
    Transparency stays. A profile that is damaged, or of another kind than the picture, is left out and said.
    One of high dynamic range is read by its tag ``cicp``, and its light compressed.
    """
    content, note = image.info.get("icc_profile"), ""
    if not content:
        return image, ""
    if numbers := hdr_numbers(content):
        content, note = high_range_profile(numbers)
        if not content:
            return (
                image,
                f"its colour profile says numbers that are not read ({tuple(numbers)}): left out",
            )
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = _SPACES.get(profile.profile.xcolor_space.strip().upper(), "")
        source = _in_space(image, space)
        if source is None:
            kind, name = profile.profile.xcolor_space.strip(), profile_name(content)
            return (
                image,
                f"its colour profile {name!r} is for {kind} and the picture is {image.mode}: left out",
            )
        if space in ("RGB", "L") and _is_srgb(content, space):
            return image, ""
        converted = ImageCms.profileToProfile(source, profile, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return image, f"its colour profile cannot be used ({reason}): read as sRGB"
    assert converted is not None
    if image.has_transparency_data:
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    return converted, note


def hdr_numbers(content: bytes) -> bytes:
    """Return the numbers of a tag ``cicp`` (ICC.1:2022, 9.2.17) that says PQ or HLG; else nothing."""
    count = int.from_bytes(content[128:132], "big")
    for at in range(132, min(132 + 12 * count, len(content) - 11), 12):
        place = int.from_bytes(content[at + 4 : at + 8], "big")
        numbers = content[place + 8 : place + 12]
        if content[at : at + 4] == b"cicp" and len(numbers) == 4 and numbers[1] in HDR:
            return numbers
    return b""


def profile_name(content: bytes) -> str:
    """Return what a profile calls itself, in a line."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        return " ".join((profile.profile.profile_description or "").split()) or "without a name"
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "without a name"


def grey_curve(image: Image.Image) -> np.ndarray | None:
    """Return the sRGB level in [0, 1] of 256 even levels of grey [256] by the profile of a deep grey picture.

    None where there is no profile that says so, or it is that of sRGB.
    """
    content = image.info.get("icc_profile")
    if not content:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        if profile.profile.xcolor_space.strip().upper() != "GRAY" or _is_srgb(content, "L"):
            return None
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        shown = ImageCms.profileToProfile(ramp, profile, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return np.asarray(shown, dtype=np.float64)[0, :, 0] / 255


def _in_space(image: Image.Image, space: str) -> Image.Image | None:
    """Return the picture in the colour space of its profile, or None where it is of another kind."""
    if space == "RGB" and image.mode not in ("CMYK", "LAB"):
        return image.convert("RGB")
    if space == "L" and image.mode in ("1", "L", "LA", "La"):
        return image.convert("L")
    if space in ("CMYK", "LAB") and image.mode == space:
        return image
    return None


@lru_cache(maxsize=32)
def _is_srgb(content: bytes, space: str) -> bool:
    """Return whether the profile shows a grid of colours as sRGB does: names of profiles say little."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    if space == "L":
        probe = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        probe = Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
    shown = ImageCms.profileToProfile(probe, profile, _srgb(), outputMode="RGB")
    before = np.asarray(probe.convert("RGB"), dtype=np.float64)
    return bool(np.abs(np.asarray(shown, dtype=np.float64) - before).max() <= SAME)


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
