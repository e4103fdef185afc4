"""PNG files and contact sheets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_core.errors import InputError
from pcs_folders.images import read_picture
from pcs_folders.pictures import sheet, write_png


def test_png_rounds_clamps_and_reads_back(tmp_path: Path) -> None:
    image = torch.tensor([-1.0, 0.0, 0.5, 0.999, 1.0, 7.0]).view(1, 2, 3).expand(3, 2, 3)
    write_png(image, tmp_path / "deep" / "x.png")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.png"]
    with Image.open(tmp_path / "deep" / "x.png") as written:
        assert (written.mode, written.size) == ("RGB", (3, 2))
    levels = read_picture(tmp_path / "deep" / "x.png").rgb * 255
    assert levels[0].flatten().round().tolist() == [0, 0, 128, 255, 255, 255]


def test_nan_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds nan"):
        write_png(torch.full((3, 2, 2), float("nan")), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot write"):
        write_png(torch.zeros(3, 2, 2), tmp_path / "file" / "x.png")


def test_sheet_puts_pictures_row_by_row() -> None:
    images = torch.stack([torch.full((3, 4, 5), i / 10) for i in range(5)])
    result = sheet(images, columns=2)
    assert result.shape == (3, 3 * 4 + 2 * 2, 2 * 5 + 2)
    assert torch.equal(result[:, 0:4, 0:5], images[0])
    assert torch.equal(result[:, 0:4, 7:12], images[1])
    assert torch.equal(result[:, 12:16, 0:5], images[4])
    assert bool((result[:, 12:16, 7:12] == 1).all())
    assert bool((result[:, 4:6] == 1).all())
    assert sheet(list(images[:1]), columns=8).shape == (3, 4, 5)
    with pytest.raises(ValueError, match="at least one"):
        sheet([], columns=2)
