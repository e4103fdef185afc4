"""Files that people take for pictures and that are not read: named by what they are, not called damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pcs_folders import heif

UNREADABLE = (
    *(*heif.SUFFIXES, ".avif", ".avifs", ".jxl", ".jp2", ".j2k", ".jpx", ".jxr"),
    *(".svg", ".psd", ".psb", ".eps", ".exr", ".hdr", ".pfm"),
    *(".tga", ".ppm", ".pgm", ".pnm", ".dds", ".qoi"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2", ".pef", ".srw"),
)
"""Suffixes of pictures in formats that are not read: a folder with one is refused."""
BESIDE = (".xcf", ".kra", ".ai", ".pdf", ".ico", ".icns", ".raw", ".insp")
"""The same of files that lie beside pictures for other reasons too: they are left out."""
ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
"""Suffixes of files that hold others."""
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"qt  ": "a QuickTime film",
}
_STARTS = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop's"),
    (b"gimp xcf", "GIMP's"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"II*\0", "a TIFF of a kind (floats in colour, or a rare compression)"),
    (b"MM\0*", "a TIFF of a kind (floats in colour, or a rare compression)"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1a\x45\xdf\xa3", "a WebM or Matroska film"),
    (b"RIFF", "a RIFF file"),
    (b"version https://git-lfs", "Git LFS's pointer to a file that was not fetched (git lfs pull)"),
)


def what_it_is(path: Path, formats: Sequence[str]) -> str:
    """Return one sentence on a file that no reader of ``formats`` knows: what its start says."""
    with path.open("rb") as file:
        head = file.read(64)
    known = next((name for start, name in _STARTS if head.startswith(start)), "")
    if head[4:8] == b"ftyp":
        known = _BRANDS.get(head[8:12], "a film (MPEG-4)")
    if not known and head.lstrip()[:1] == b"<":
        known = "a page of HTML or XML, as a failed download leaves"
    if known == "HEIC" and not heif.HEIF:
        return f"{path} holds HEIC, as telephones write it: {heif.MEND}, or move it away"
    if known:
        return (
            f"{path} holds {known}, which is not read: convert it to PNG or JPEG, copy it again, or move it "
            "away"
        )
    return f"{path} is not an image ({', '.join(formats)}): remove it or save it again"
