"""Clips in a subject folder, and clips that are written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_core.catalogue import Catalogue
from pcs_core.errors import InputError, UnknownNameError
from pcs_folders.pictures import frame_sheet, write_png
from pcs_folders.subjects import load_subject
from pcs_video import clip_files as clips
from pcs_video.clip_files import clip_suffix, read_clip, write_clip

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def save_gif(path: Path) -> None:
    first, *rest = [Image.new("RGB", (8, 6), c) for c in COLOURS]
    first.save(path, save_all=True, append_images=rest, duration=100)


def save_frames(folder: Path) -> None:
    folder.mkdir()
    # 10 comes after 9, not after 1
    for number, colour in zip((1, 9, 10), COLOURS, strict=True):
        Image.new("RGB", (8, 6), colour).save(folder / f"frame{number}.png")


def test_a_folder_of_clips(tmp_path: Path) -> None:
    save_gif(tmp_path / "a.gif")
    save_frames(tmp_path / "b")
    (tmp_path / "b.txt").write_text("a dog runs")
    subject = load_subject(tmp_path, noun="dog", token="<dog>")
    assert subject.files == ("a.gif", "b")
    assert subject.captions == (None, "a dog runs")
    for clip in subject.images:
        assert clip.shape == (3, 3, 6, 8)
        # frame t is full of colour t
        assert torch.allclose(clip.mean(dim=(2, 3)), torch.eye(3), atol=0.02)


def test_a_moving_picture_beside_still_ones_is_still(tmp_path: Path) -> None:
    save_gif(tmp_path / "a.gif")
    save_frames(tmp_path / "b")
    write_png(torch.rand(3, 6, 8), tmp_path / "c.png")
    subject = load_subject(tmp_path, noun="dog", token="<dog>")
    assert [tuple(i.shape) for i in subject.images] == [(3, 6, 8), (3, 6, 8)]


def test_a_video_without_a_decoder_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "_coder", lambda: "")
    (tmp_path / "a.mp4").write_bytes(b"0")
    with pytest.raises(InputError, match=r"a\.mp4: no video decoder is installed: pip install av"):
        load_subject(tmp_path, noun="dog", token="<dog>")


def test_frames_of_two_sizes_are_refused(tmp_path: Path) -> None:
    save_frames(tmp_path / "b")
    Image.new("RGB", (4, 4)).save(tmp_path / "b" / "frame11.png")
    with pytest.raises(InputError, match="differ in size"):
        read_clip(tmp_path / "b")


@pytest.mark.parametrize("coder", ["", pytest.param(None, id="installed")])
def test_a_written_clip_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coder: str | None
) -> None:
    if coder is not None:
        monkeypatch.setattr(clips, "_coder", lambda: coder)
    clip = torch.eye(3)[:, :, None, None].expand(-1, -1, 16, 16).contiguous()
    path = write_clip(clip, tmp_path / "000")
    assert path.name == f"000{clip_suffix()}"
    again = read_clip(path)
    assert again.shape == clip.shape
    assert (again.mean(dim=(2, 3)) - torch.eye(3)).abs().max() < 0.1


def test_the_sheet_of_a_clip_has_its_frames_side_by_side() -> None:
    clip = torch.rand(3, 4, 6, 8)
    sheet = frame_sheet(clip)
    assert sheet.shape == (3, 6, 4 * 8 + 3 * 2)
    assert torch.equal(sheet[:, :, 10:18], clip[:, 1])


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nan"):
        write_clip(torch.full((3, 2, 4, 4), float("nan")), tmp_path / "x")


def test_without_this_plugin_a_folder_of_clips_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[Catalogue.__module__], "catalogue", lambda: Catalogue([]))
    save_gif(tmp_path / "a.gif")
    with pytest.raises(UnknownNameError, match=r"it belongs to pcs-video \(pip install"):
        load_subject(tmp_path, noun="dog", token="<dog>")
