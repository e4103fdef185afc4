"""Key points of a pre-training's record stand where the network is shown them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_core import FolderRecords
from pcs_core.data import Record
from pcs_engine.prepare import fit_image, fit_points
from pcs_pretrain.records import record_subject
from pcs_testing import make_picture


@pytest.mark.parametrize(
    ("shape", "size"), [((40, 80), (32, 32)), ((90, 30), (32, 64)), ((64, 64), (32, 32))]
)
def test_points_follow_what_is_cut_off(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """A lit spot of a picture lies at its point in the part that is shown."""
    height, width = shape
    row, column = height // 2 - 3, width // 2 + 4
    image = torch.zeros(3, height, width)
    image[:, row - 1 : row + 2, column - 1 : column + 2] = 1.0
    point = torch.tensor([[(column + 0.5) / width, (row + 0.5) / height]])
    shown = fit_image(image, size)[0]
    rows, columns = shown.sum(1), shown.sum(0)
    y = float((rows * (torch.arange(size[0]) + 0.5)).sum() / rows.sum()) / size[0]
    x = float((columns * (torch.arange(size[1]) + 0.5)).sum() / columns.sum()) / size[1]
    fitted = fit_points(point, shape, size)[0]
    assert float((fitted - torch.tensor([x, y])).abs().max()) < 1 / min(size)


def test_an_absent_point_stays_absent() -> None:
    assert float(fit_points(torch.full((5, 2), -9.0), (40, 80), (32, 32)).max()) < -1


def test_a_folder_s_points_are_read(tmp_path: Path) -> None:
    points = [[0.3, 0.4], [0.7, 0.4], [0.5, 0.5], [0.4, 0.7], [0.6, 0.7]]
    for name in ("a", "b"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a photo of a person")
    (tmp_path / "a.json").write_text(json.dumps({"points": points}))
    with_points, without = (
        FolderRecords(tmp_path, noun="person")[0],
        FolderRecords(tmp_path, noun="person")[1],
    )
    torch.testing.assert_close(with_points.extra["points"], torch.tensor(points))
    assert dict(without.extra) == {}


def test_key_points_belong_to_the_record_s_own_picture() -> None:
    picture, other = make_picture(1), make_picture(2)
    extra = {"points": torch.rand(5, 2)}
    record = Record(picture, "a dog", ("dog",), ((picture, other),), extra=extra)
    first, further = record_subject(record).extra
    assert first["points"] is extra["points"]
    assert "points" not in further
