"""Which entries of a subject folder are clips. Decoding them is a plugin's business: pcs-video's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pcs_folders.images import SUFFIXES
from pcs_folders.parts import visible

VIDEO_SUFFIXES = (
    *(".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v", ".mpg", ".mpeg"),
    *(".3gp", ".mts", ".m2ts", ".wmv", ".flv", ".ogv"),
)


def find_clips(entries: Sequence[Path]) -> list[Path]:
    """Return the clips among the entries of a subject folder: none where it holds a still picture."""
    files = [p for p in entries if p.suffix.lower() in SUFFIXES and p.is_file()]
    moving = [p for p in files if _animated(p)]
    if len(moving) < len(files):
        return []
    videos = [p for p in entries if p.suffix.lower() in VIDEO_SUFFIXES]
    folders = [p for p in entries if p.is_dir() and len(frame_files(p)) > 1]
    return sorted({*moving, *videos, *folders})


def frame_files(folder: Path) -> list[Path]:
    """Return the numbered pictures of a folder, in the order of their (last) numbers."""
    numbered = []
    for path in visible(folder):
        number = re.search(r"(\d+)$", path.stem)
        if number and path.suffix.lower() in SUFFIXES:
            numbered.append((int(number[1]), path.name, path))
    return [path for *_, path in sorted(numbered)]


def _animated(path: Path) -> bool:
    if path.suffix.lower() != ".gif":
        return False
    try:
        with Image.open(path, formats=("GIF",)) as image:
            return getattr(image, "n_frames", 1) > 1
    except Exception:  # whatever is wrong with it, reading it as a picture says so
        return False
