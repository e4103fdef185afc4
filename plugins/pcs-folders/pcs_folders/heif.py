"""HEIF and HEIC, as telephones write them: read where the package pillow-heif is installed.

libheif turns and mirrors a picture by its own properties, and Exif's orientation is then no more to be applied
(ISO/IEC 23008-12, 6.5.10); pillow-heif hands it over as upright. Levels of 10 and 12 bits arrive as 8.
"""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image

from pcs_folders.said_colour import SaidColour, coded_colour

FORMAT = "HEIF"
SUFFIXES = (".heic", ".heif", ".hif")
MEND = "`pip install pillow-heif` makes them readable, or convert it to PNG or JPEG"
"""What to do where the package is not installed."""


def register() -> bool:
    """Let Pillow read HEIF, and return whether it can."""
    try:
        from pillow_heif import register_heif_opener
    except (ImportError, OSError):  # not installed, or its libraries do not load here
        return False
    register_heif_opener(thumbnails=False)
    return True


HEIF = register()
"""Whether HEIF is read here."""


def heif_colour(file: BinaryIO, image: Image.Image) -> SaidColour | None:
    """Return what the main picture's box ``colr`` says ("nclx": numbers of H.273), or None: sRGB, or a profile.

    The decoder has made RGB of it by its matrix already; primaries and transfer are left.
    """
    said = image.info.get("nclx_profile")
    if "icc_profile" in image.info or not said:
        return None
    numbers = said["color_primaries"], said["transfer_characteristics"]
    return coded_colour(bytes((*map(int, numbers), 0, 1)), grey=False, what="its colr box")
