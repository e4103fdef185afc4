"""A face is brought to a recogniser's pose, and a recogniser is an ONNX file that the user brings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pcs_core.data import Masks
from pcs_core.errors import InputError
from pcs_encoders.alignment import SIDE, TEMPLATE, aligned, similarity
from pcs_encoders.face import FaceFeatures
from pcs_encoders.recogniser import face_id, open_recogniser
from pcs_testing import make_subject

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def write(folder: Path, *, raw: bool = False, rows: int | str = "n") -> Path:
    """Write a graph [rows 3 112 112] -> [rows 3] that says the mean of each channel."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes, name, initializers = [], "data", []
    if raw:
        initializers = [
            onnx.numpy_helper.from_array(np.float32(v), n)
            for n, v in (("a", 127.5), ("b", 0.0078125))
        ]
        nodes = [
            helper.make_node("Sub", ["data", "a"], ["x"]),
            helper.make_node("Mul", ["x", "b"], ["y"]),
        ]
        name = "y"
    nodes += [
        helper.make_node("GlobalAveragePool", [name], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("data", kind, [rows, 3, 112, 112])],
        [helper.make_tensor_value_info("out", kind, [rows, 3])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "face.onnx"
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("rows", ["n", 1, 2])
def test_pixels_are_those_of_insightface(tmp_path: Path, rows: int | str) -> None:
    """(pixel - 127.5) / 127.5, red first; vectors keep their length, and any number of faces goes in."""
    actual = open_recogniser(write(tmp_path, rows=rows)).pooled(
        torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 1.0], [0.2, 0.2, 0.2]])
        .view(3, 3, 1, 1)
        .expand(-1, -1, 40, 40)
    )
    expected = [[1.0, 0.0, -1.0], [-1.0, -1.0, 1.0], [-0.6, -0.6, -0.6]]
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-4, rtol=0)


def test_a_graph_that_normalises_reads_bytes(tmp_path: Path) -> None:
    actual = open_recogniser(write(tmp_path, raw=True)).pooled(torch.ones(1, 3, 112, 112))
    torch.testing.assert_close(actual, torch.full((1, 3), 127.5 * 0.0078125))


def test_without_a_recogniser_the_message_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    face_id.cache_clear()
    monkeypatch.delenv("PCS_FACE_ID", raising=False)
    with pytest.raises(InputError, match=r"none is shipped: set PCS_FACE_ID to an ONNX file"):
        face_id()
    with pytest.raises(InputError, match=r"there is no file .*nowhere.onnx"):
        open_recogniser(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(InputError, match=r"cannot be opened"):
        open_recogniser(tmp_path / "text.onnx")
    monkeypatch.setenv("PCS_FACE_ID", str(write(tmp_path)))
    assert face_id().pooled(torch.ones(1, 3, 112, 112)).shape == (1, 3)
    face_id.cache_clear()


def test_a_similarity_is_found_again() -> None:
    source = torch.tensor(TEMPLATE, dtype=torch.float64)
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64) * 1.7
    matrix, shift = similarity(source, source @ turn.T + torch.tensor([3.0, -5.0]))
    torch.testing.assert_close(matrix, turn)
    torch.testing.assert_close(shift, torch.tensor([3.0, -5.0], dtype=torch.float64))


@pytest.mark.parametrize("side", [SIDE, 2 * SIDE])
def test_a_face_is_aligned_as_opencv_warps_it(side: int) -> None:
    """At 224 pixels, as FaceID Plus shows CLIP a face, the template is twice as large."""
    cv2 = pytest.importorskip("cv2")
    rng = torch.Generator().manual_seed(1)
    picture = torch.nn.functional.interpolate(
        torch.rand(1, 3, 12, 16, generator=rng), (180, 240), mode="bicubic"
    )[0].clamp(0, 1)
    points = torch.tensor([[0.38, 0.35], [0.62, 0.42], [0.48, 0.55], [0.36, 0.66], [0.55, 0.72]])
    pixels = points.double() * torch.tensor([240.0, 180.0]) - 0.5
    matrix, shift = similarity(pixels, torch.tensor(TEMPLATE) * (side // SIDE))
    affine = torch.cat([matrix, shift[:, None]], 1).numpy()
    source = picture.permute(1, 2, 0).numpy()
    expected = torch.from_numpy(cv2.warpAffine(source, affine, (side, side), borderValue=0.0))
    actual = aligned(picture, points, side)
    assert actual.shape == (3, side, side)
    # OpenCV rounds places to 1/32 of a pixel
    assert float((actual - expected.permute(2, 0, 1)).abs().max()) < 0.02


def test_a_reference_with_key_points_is_aligned_and_keeps_its_length() -> None:
    shown: list[torch.Tensor] = []

    class Spy:
        def pooled(self, images: torch.Tensor) -> torch.Tensor:
            shown.append(images)
            return images.mean((2, 3)) * 7

    said: list[str] = []
    run: Any = SimpleNamespace(
        feature_model=lambda _: Spy(), image_size=(64, 64), device="cpu", seed=0, log=said.append
    )
    points = [[0.38, 0.35], [0.62, 0.42], [0.48, 0.55], [0.36, 0.66], [0.55, 0.72]]
    subject = replace(make_subject(images=2), extra=({"points": points}, {}))
    technique = FaceFeatures.from_settings({"align": True, "normalise": False})
    features = technique.extract(run, subject, Masks(), "start")
    assert features is not None
    assert shown[0].shape == (2, 3, SIDE, SIDE)
    torch.testing.assert_close(shown[0][0], aligned(subject.images[0], torch.tensor(points)))
    assert len(said) == 1
    assert "reference 2" in said[0]
    assert float(features.tensors["face"].norm()) > 1.5, "as the recogniser gives it"
    wide = FaceFeatures.from_settings({"align": True, "normalise": False, "side": 224})
    wide.extract(run, subject, Masks(), "start")
    assert shown[1].shape == (2, 3, 224, 224)


@pytest.mark.parametrize(
    ("points", "usable"),
    [
        ([[0.0, 0.0], [1.0, 0.2], [0.5, 0.5], [0.2, 1.0], [0.8, 0.9]], True),
        ([[0.1, 0.1], [1.01, 0.2], [0.5, 0.5], [0.2, 0.8], [0.8, 0.9]], False),
        ([[-0.01, 0.1], [0.9, 0.2], [0.5, 0.5], [0.2, 0.8], [0.8, 0.9]], False),
        ([[0.1, 0.1], [0.9, 0.2], [0.5, 0.5], [0.2, 0.8]], False),
        ([[0.1, 0.1], [0.9, 0.2], [0.5, 0.5], [0.2, 0.8], [0.8, 0.9], [0.5, 0.9]], False),
    ],
)
def test_five_points_within_the_picture_are_a_face(points: list[list[float]], usable: bool) -> None:
    subject = replace(make_subject(images=1), extra=({"points": points},))
    given = FaceFeatures(align=True)._points(subject, 0, "fido")
    assert (given is not None) is usable
    if given is not None:
        assert given.tolist() == points
