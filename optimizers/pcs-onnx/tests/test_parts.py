"""Small graphs of every kind, in half precision and of open size: what the large ones are made with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcs_core.backbone import Attachment, Backbone
from pcs_core.data import Fusion
from pcs_core.errors import CapabilityError
from pcs_onnx.arguments import Size, plain
from pcs_onnx.graphs import CallRoot
from pcs_onnx.halves import TOLERANCES
from pcs_onnx.parts import Parts, modules_of
from pcs_onnx.resizing import resized_by_products
from pcs_onnx.sessions import Session
from pcs_onnx.writing import Writer

pytestmark = pytest.mark.rotated(3, "file")


def writer(net: Attachment, folder: Path, **more) -> Writer:
    options = {"opset": 23, "external": True, "dtype": "fp32", "size": Size(), "baked": ()}
    options["tolerance"] = TOLERANCES[more.get("dtype", "fp32")]
    return Writer(net, folder, **{**options, **more})


def test_a_decoder_in_half_precision_of_any_size(backbone: Backbone, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in backbone.parts["vae"].state_dict().items()}
    with Attachment(backbone, Fusion()) as net, torch.no_grad():
        made = writer(net, tmp_path, dtype="fp16", size=Size(2))
        facts = Parts(made, {}).decoder()["decoder"]
    assert 1e-5 < facts["max_error"] <= 5e-3  # half, and at two sizes
    after = backbone.parts["vae"].state_dict()
    assert all(torch.equal(before[k], v) and v.dtype == before[k].dtype for k, v in after.items())
    assert backbone.dtype is torch.float32
    size = (tmp_path / "decoder.onnx.data").stat().st_size
    assert size < 2.2 * sum(v.numel() for v in after.values())  # two bytes a weight
    session = Session(tmp_path / "decoder.onnx", "cpu", 63)
    for height, width in ((8, 12), (20, 16)):
        (decoded,) = session([torch.randn(3, backbone.latent_shape[0], height, width)])
        assert decoded.shape == (3, 3, 2 * height, 2 * width)


def test_a_graph_that_differs_says_by_how_much_and_what_allows_it(
    backbone: Backbone, tmp_path: Path
) -> None:
    with Attachment(backbone, Fusion()) as net, torch.no_grad():
        with pytest.raises(CapabilityError, match=r"decoder's graph differs .* tolerance=\de-\d"):
            Parts(writer(net, tmp_path, tolerance=1e-12), {}).decoder()
        facts = Parts(writer(net, tmp_path, tolerance=1e-4), {}).decoder()["decoder"]
    assert facts["max_error"] < 1e-4


def test_a_light_decoder(backbone: Backbone, tmp_path: Path) -> None:
    from diffusers import AutoencoderTiny

    for name, channels in (("light", backbone.latent_shape[0]), ("other", 2)):
        AutoencoderTiny(
            latent_channels=channels,
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ).save_pretrained(tmp_path / name)
    with Attachment(backbone, Fusion()) as net, torch.no_grad():
        parts = Parts(writer(net, tmp_path), {})
        with pytest.raises(CapabilityError, match="latents"):
            parts.look(str(tmp_path / "other"))
        facts = parts.light(str(tmp_path / "light"))["light"]
    assert facts["max_error"] <= 1e-5
    latents = torch.randn(3, *backbone.latent_shape)
    (decoded,) = Session(tmp_path / facts["file"], "cpu", 63)([latents])
    want = backbone.light_decoder(str(tmp_path / "light"))(latents)
    assert float((decoded - want).abs().max()) <= 1e-5


def test_an_encoder_that_resizes(backbone: Backbone, tmp_path: Path) -> None:
    from pcs_diffusers.vision import tiny_image

    model = tiny_image()
    pictures = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with Attachment(backbone, Fusion()) as net, torch.no_grad():
        parts = Parts(writer(net, tmp_path), {})
        facts = parts.encoders({"tiny.image": (model, {"pooled": pictures[:1]})})
    graph = facts["encoder/tiny.image/pooled"]
    session = Session(tmp_path / graph["file"], "cpu", 63)
    (encoded,) = session([pictures])
    want = model.pooled(pictures)  # by torch's own resizing
    assert float((encoded - want).abs().max() / want.abs().max()) <= 1e-5


def test_resizing_by_products_is_resizing() -> None:
    picture = torch.rand(2, 3, 40, 48)
    options = {"mode": "bicubic", "antialias": True, "align_corners": False}
    want = torch.nn.functional.interpolate(picture, (24, 20), **options)
    with resized_by_products():
        actual = torch.nn.functional.interpolate(picture, (24, 20), **options)
    assert torch.allclose(actual, want, atol=1e-6)


def test_a_graph_that_closes_its_batch_is_found_out(backbone: Backbone, tmp_path: Path) -> None:
    class Closed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(0, keepdim=True).expand(int(x.shape[0]), -1) * 2.0

    root, given = CallRoot(Closed(), []), plain({"image": torch.rand(2, 4)})
    with Attachment(backbone, Fusion()) as net, torch.no_grad():
        made = writer(net, tmp_path)
        with pytest.raises((CapabilityError, RuntimeError)):
            made.graph("closed", root, given)


def test_what_a_model_holds() -> None:
    class Holder:
        def __init__(self) -> None:
            self.net, self.number = torch.nn.Linear(2, 2), 3

    holder = Holder()
    assert modules_of(holder) == [holder.net]
    assert modules_of(holder.net) == [holder.net]
