"""Clips on disk: animated GIF files, folders of numbered frames, and video files where a decoder is.

Video files need an optional package: ``av`` (PyAV) or ``imageio`` with its ffmpeg plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from pcs_core.errors import InputError
from pcs_core.storage.durable import replacing_file
from pcs_folders.clips import frame_files
from pcs_folders.images import MOST_PIXELS, read_picture, stored_pixels

FRAMES_PER_SECOND = 8
"""Of the clips that are written: that of MotionDirector's."""


def read_clip(path: Path) -> Tensor:
    """Return a clip [3 t h w] in [0, 1] from a GIF, a folder of frames or a video file.

    Raises
    ------
    InputError
        It cannot be decoded, its frames differ in size, it is too large, or no decoder is installed.
    """
    if path.is_dir():
        files = frame_files(path)
        # before the first is decoded: together they may not fit into memory
        _check_pixels(path, sum(stored_pixels(p) for p in files))
        frames = [read_picture(p).rgb for p in files]
        if len({f.shape for f in frames}) > 1:
            raise InputError(f"{path}: the frames differ in size: give them one size")
        return torch.stack(frames, dim=1)
    if path.suffix.lower() == ".gif":
        return _tensor(_gif(path), path)
    return _tensor(_video(path), path)


def write_clip(clip: Tensor, stem: Path) -> Path:
    """Write ``clip`` [3 t h w] in [0, 1] to ``stem`` with a suffix; return the file.

    An .mp4 where an encoder is installed, else a .gif.

    Raises
    ------
    InputError
        It holds nan, or the file cannot be written.
    """
    if torch.isnan(clip).any():
        raise InputError("a clip holds nan: the fit diverged, fit again with a smaller lr")
    levels = (clip.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    frames = levels.permute(1, 2, 3, 0).contiguous().numpy()
    path = stem.with_name(stem.name + clip_suffix())
    try:
        with replacing_file(path) as temporary:
            if path.suffix == ".mp4":
                _encode(frames, temporary)
            else:
                _write_gif(frames, temporary)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def clip_suffix() -> str:
    """Return ".mp4" where an encoder is installed, else ".gif"."""
    return ".mp4" if _coder() else ".gif"


def _coder() -> str:
    if find_spec("av"):
        return "av"
    return "imageio" if find_spec("imageio") and find_spec("imageio_ffmpeg") else ""


def _gif(path: Path) -> list[np.ndarray]:
    try:
        with Image.open(path, formats=("GIF",)) as image:
            _check_size(path, getattr(image, "n_frames", 1), image.height, image.width)
            return [np.array(f.convert("RGB")) for f in ImageSequence.Iterator(image)]
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever damaged input led them to
        raise _damaged(path, error) from error


def _video(path: Path) -> list[np.ndarray]:
    coder = _coder()
    if not coder:
        raise InputError(
            f"{path}: no video decoder is installed: pip install av, or give an animated GIF or a "
            "folder of numbered frames"
        )
    frames: list[np.ndarray] = []
    try:
        for frame in _decoded(path, coder):
            _check_size(path, len(frames) + 1, *frame.shape[:2])
            frames.append(frame)
    except InputError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error
    if not frames:
        raise InputError(f"{path} has no frame: remove it")
    return frames


def _decoded(path: Path, coder: str) -> Any:
    if coder == "av":
        import av  # type: ignore[import-not-found]

        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    else:
        import imageio.v3  # type: ignore[import-not-found]

        yield from imageio.v3.imiter(path, plugin="FFMPEG")


def _encode(frames: np.ndarray, path: Path) -> None:
    height, width = frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2  # the codec wants even sides
    frames = frames[:, :height, :width]
    if _coder() == "av":
        import av

        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("h264", rate=FRAMES_PER_SECOND)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                for packet in stream.encode(picture):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
    else:
        import imageio.v3

        imageio.v3.imwrite(
            path,
            frames,
            plugin="FFMPEG",
            extension=".mp4",
            fps=FRAMES_PER_SECOND,
            macro_block_size=2,
        )


def _write_gif(frames: np.ndarray, path: Path) -> None:
    first, *rest = [Image.fromarray(frame, "RGB") for frame in frames]
    first.save(
        path, "GIF", save_all=True, append_images=rest, duration=1000 // FRAMES_PER_SECOND, loop=0
    )


def _tensor(frames: Sequence[np.ndarray], path: Path) -> Tensor:
    if len({f.shape for f in frames}) > 1:
        raise InputError(f"{path}: the frames differ in size")
    stacked = torch.from_numpy(np.stack(frames))
    return stacked.permute(3, 0, 1, 2).contiguous().to(torch.float32) / 255


def _check_size(path: Path, frames: int, height: int, width: int) -> None:
    _check_pixels(path, frames * height * width)


def _check_pixels(path: Path, pixels: int) -> None:
    if pixels > MOST_PIXELS:
        raise InputError(
            f"{path} has more than {MOST_PIXELS // 1_000_000} megapixels over its frames: cut it or "
            "scale it down"
        )


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path} is damaged ({reason}): remove it or copy it again")


@dataclass(frozen=True, slots=True)
class ClipFiles:
    """The service ``clip_files``: clips [3 t h w] in [0, 1] from files, and into them."""

    read: Callable[[Path], Tensor] = read_clip
    write: Callable[[Tensor, Path], Path] = write_clip
    suffix: Callable[[], str] = clip_suffix
    frames_per_second: int = FRAMES_PER_SECOND


clip_files = ClipFiles()
